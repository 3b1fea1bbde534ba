// Pairs: the pairs of a benchmark with their matches, sorted and filtered.

import { chooseTask } from "./choose.js";
import { element, figureWithButton, loadImage, mark, message, select } from "./elements.js";
import * as source from "./source.js";

export const title = "Pairs";
const PAGE = 24;
const SIDE = 640; // of a picture in pixels

export async function show(view) {
  const { mount, state, go } = view;
  const cleared = { category: "", difficulty: "", other: "", offset: "" };
  const { task, descriptor, finished, menu } = chooseTask(view, "correspondence", (name) => go({ view: "pairs", task: name, descriptor: "", ...cleared }));
  const { category = "", difficulty = "", correct = "", order = "desc" } = state;
  const offset = Math.max(0, Number(state.offset) || 0);
  const others = finished
    .filter((each) => each.dataset === task.dataset)
    .flatMap((each) => each.descriptors.map((name) => ({ name: `${each.name}/${name}`, task: each, descriptor: name })))
    .filter(({ name }) => name !== `${task.name}/${descriptor}`);
  const other = others.find(({ name }) => name === state.other);
  const sorts = ["error", "confidence", ...(other ? ["difference"] : [])];
  const sort = sorts.includes(state.sort) ? state.sort : "error";
  const request = { task: task.name, descriptor, category, difficulty, correct, sort, descending: order === "desc", other: other?.name ?? "", offset, limit: PAGE };
  const { total, categories, difficulties, pairs } = await source.pairs(request);
  const set = (name) => (value) => go({ view: "pairs", task: task.name, offset: "", [name]: value });
  const named = (values) => [["", "all"], ...values.map((value) => [value, value])];
  const cards = element("div", { class: other ? "cards compared" : "cards" });
  mount(
    element("div", { class: "controls" },
      menu,
      select("Descriptor", task.descriptors.map((name) => [name, name]), descriptor, set("descriptor")),
      select("Category", named(categories), category, set("category")),
      select("Difficulty", named(difficulties), difficulty, set("difficulty")),
      select("Correct points", [["", "any"], ["all", "all"], ["some", "some"], ["none", "none"]], correct, set("correct")),
      select("Compare with", [["", "nothing"], ...others.map(({ name }) => [name, name])], other?.name ?? "", (value) => go({ view: "pairs", other: value, sort: value ? "difference" : "error", offset: "" })),
      select("Sort by", sorts.map((name) => [name, name]), sort, set("sort")),
      select("Order", [["desc", "largest first"], ["asc", "smallest first"]], order, set("order")),
    ),
    legend(total),
    cards,
    pager(offset, total, (next) => go({ offset: next })),
  );
  if (!pairs.length) cards.replaceWith(message("No pair passes these filters."));
  for (const pair of pairs) {
    const results = [{ task, descriptor, pair }];
    if (other) results.push({ task: other.task, descriptor: other.descriptor, pair: pair.other });
    cards.append(card(results, go));
  }
}

function legend(total) {
  const line = (dashed) => `<svg width="34" height="10"><line x1="0" y1="5" x2="34" y2="5" stroke="var(--${dashed ? "wrong" : "right"})" stroke-width="3"${dashed ? ' stroke-dasharray="6 4"' : ""}/></svg>`;
  const item = (svg, text) => {
    const made = element("span");
    made.innerHTML = svg;
    made.append(text);
    return made;
  };
  return element("p", { class: "legend" }, `${total} ${total === 1 ? "pair" : "pairs"}`, item(line(false), "correct"), item(line(true), "wrong"), "A white ring marks the true point. Errors are in units of the threshold.");
}

function pager(offset, total, go) {
  const previous = element("button", { type: "button", disabled: offset === 0, onclick: () => go(Math.max(0, offset - PAGE) || "") }, "Previous");
  const next = element("button", { type: "button", disabled: offset + PAGE >= total, onclick: () => go(offset + PAGE) }, "Next");
  return element("p", { class: "legend" }, previous, next);
}

// Returns a card of one result or of two that are compared. Each has a task, a descriptor, and the pair with its points.
function card(results, go) {
  const [{ task, pair }, second] = results;
  const made = element("article", { class: "card", "data-pair": pair.pair });
  if (second) {
    const [name, otherName] = results.map((result) => (second.task === task ? result.descriptor : `${result.task.name}, ${result.descriptor}`));
    const compared = `${Math.abs(pair.difference).toFixed(2)} ${pair.difference < 0 ? "larger" : "smaller"}`;
    made.append(element("h2", {}, `${pair.category}: the error is ${compared} with ${name}`), figure(results[0], name, open), figure(second, otherName, open));
  } else made.append(figure(results[0], pair.category, open));

  function open() {
    const point = pair.points[0].source.map(Math.round).join(",");
    const columns = second ? { columns: results.map((result) => column(result, task)).join("|") } : {};
    go({ view: "match", entry: task.features, block: task.block, source: pair.source, targets: pair.target, point, ...columns });
  }
  const load = async (image) => ({ picture: await loadImage(source.pictureAddress(task.features, image, SIDE)), size: await sizeOf(task.features, image) });
  Promise.all([load(pair.source), load(pair.target)])
    .then((images) => made.querySelectorAll("canvas").forEach((canvas, i) => draw(canvas, images, results[i].pair)))
    .catch((error) => made.replaceChildren(message(error.message)));
  return made;
}

// Returns the column of Match that shows a result, in a view of the features of `task`.
function column(result, task) {
  const { features, block } = result.task;
  return features === task.features && block === task.block ? result.descriptor : `${result.descriptor}@${block}@${features}`;
}

function figure({ task, descriptor, pair }, title, open) {
  const canvas = element("canvas");
  const right = pair.points.filter((point) => point.correct).length;
  const text = `${right} of ${pair.points.length} correct, mean error ${pair.error.toFixed(2)}`;
  return figureWithButton(canvas, open, title, text, "Open in Match.", `${pair.pair}-${task.name}-${descriptor}`);
}

const listings = new Map();
async function sizeOf(entry, image) {
  if (!listings.has(entry)) listings.set(entry, source.images(entry).then(({ images }) => new Map(images.map((each) => [each.id, each]))));
  return (await listings.get(entry)).get(image);
}

function draw(canvas, images, pair) {
  const height = 480;
  const widths = images.map(({ picture }) => (picture.naturalWidth / picture.naturalHeight) * height);
  canvas.width = widths[0] + widths[1] + 16;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(images[0].picture, 0, 0, widths[0], height);
  context.drawImage(images[1].picture, widths[0] + 16, 0, widths[1], height);
  const place = (side, [x, y]) => [(side ? widths[0] + 16 : 0) + ((x + 0.5) / images[side].size.width) * widths[side], ((y + 0.5) / images[side].size.height) * height];
  const probe = element("span");
  document.body.append(probe);
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  for (const point of pair.points) {
    const shade = colour(point.correct ? "right" : "wrong");
    const start = place(0, point.source);
    const end = place(1, point.match);
    mark(context, ...place(1, point.true), 15, "#ffffff");
    for (const [width, stroke] of [[9, "rgba(0,0,0,.55)"], [6, shade]]) {
      context.setLineDash(point.correct ? [] : [18, 12]);
      context.lineWidth = width;
      context.strokeStyle = stroke;
      context.beginPath();
      context.moveTo(...start);
      context.lineTo(...end);
      context.stroke();
    }
    context.setLineDash([]);
    mark(context, ...start, 8, shade);
    mark(context, ...end, 10, shade, point.correct ? "ring" : "cross");
  }
  probe.remove();
}
