// Pairs: the pairs of a benchmark with their matches, sorted and filtered.

import { element, loadImage, mark, message, select } from "./elements.js";
import * as source from "./source.js";

export const title = "Pairs";
const PAGE = 24;
const SIDE = 640; // of a picture in pixels

export async function show({ mount, project, state, go }) {
  const tasks = project.tasks.filter((task) => task.type === "correspondence");
  const done = tasks.filter((task) => !task.missing);
  if (!done.length) {
    mount(message(tasks[0]?.missing ?? "params.yaml has no task of type correspondence."));
    return;
  }
  const task = done.find((each) => each.name === state.task) ?? done[0];
  const descriptor = task.descriptors.includes(state.descriptor) ? state.descriptor : task.descriptors.at(-1);
  const { category = "", difficulty = "", correct = "", sort = "error", order = "desc", other = "" } = state;
  const offset = Math.max(0, Number(state.offset) || 0);
  const request = { task: task.name, descriptor, category, difficulty, correct, sort: other || sort !== "difference" ? sort : "error", descending: order === "desc", other, offset, limit: PAGE };
  const { total, categories, difficulties, pairs } = await source.pairs(request);
  const set = (name) => (value) => go({ view: "pairs", task: task.name, offset: "", [name]: value });
  const named = (values) => [["", "all"], ...values.map((value) => [value, value])];
  const others = done.flatMap((each) => each.descriptors.map((name) => `${each.name}/${name}`)).filter((name) => name !== `${task.name}/${descriptor}`);
  const sorts = [["error", "error"], ["confidence", "confidence"], ...(other ? [["difference", "difference"]] : [])];
  const cards = element("div", { class: "cards" });
  mount(
    element("div", { class: "controls" },
      select("Task", done.map((each) => [each.name, each.name]), task.name, (name) => go({ view: "pairs", task: name, descriptor: "", category: "", difficulty: "", other: "", offset: "" })),
      select("Descriptor", task.descriptors.map((name) => [name, name]), descriptor, set("descriptor")),
      select("Category", named(categories), category, set("category")),
      select("Difficulty", named(difficulties), difficulty, set("difficulty")),
      select("Correct points", [["", "any"], ["all", "all"], ["some", "some"], ["none", "none"]], correct, set("correct")),
      select("Compare with", [["", "nothing"], ...others.map((name) => [name, name])], other, (value) => go({ view: "pairs", other: value, sort: value ? "difference" : "error", offset: "" })),
      select("Sort by", sorts, sort, set("sort")),
      select("Order", [["desc", "largest first"], ["asc", "smallest first"]], order, set("order")),
    ),
    legend(total),
    cards,
    pager(offset, total, (next) => go({ offset: next })),
  );
  if (!pairs.length) cards.replaceWith(message("No pair passes these filters."));
  for (const pair of pairs) cards.append(card(task, descriptor, pair, go));
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

function card(task, descriptor, pair, go) {
  const canvas = element("canvas");
  const right = pair.points.filter((point) => point.correct).length;
  const difference = "difference" in pair ? `, ${pair.difference >= 0 ? "+" : ""}${pair.difference.toFixed(2)} in the other` : "";
  const text = `${pair.category}: ${right} of ${pair.points.length} correct, mean error ${pair.error.toFixed(2)}${difference}`;
  const open = () => go({ view: "match", entry: task.features, block: task.block, source: pair.source, targets: pair.target, point: pair.points[0].source.map(Math.round).join(",") });
  const made = element("button", { type: "button", class: "card", onclick: open, "aria-label": `${text}. Open in Match.` }, canvas, element("p", {}, text));
  made.dataset.pair = pair.pair;
  Promise.all([pair.source, pair.target].map((image) => loadImage(source.pictureAddress(task.features, image, SIDE)))).then(async (pictures) => {
    const sizes = await Promise.all([pair.source, pair.target].map((image) => sizeOf(task.features, image)));
    draw(canvas, pictures, sizes, pair);
  }).catch((error) => made.replaceChildren(element("p", {}, error.message)));
  return made;
}

const listings = new Map();
async function sizeOf(entry, image) {
  if (!listings.has(entry)) listings.set(entry, source.images(entry).then(({ images }) => new Map(images.map((each) => [each.id, each]))));
  return (await listings.get(entry)).get(image);
}

function draw(canvas, pictures, sizes, pair) {
  const height = 480;
  const widths = pictures.map((picture) => (picture.naturalWidth / picture.naturalHeight) * height);
  canvas.width = widths[0] + widths[1] + 16;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(pictures[0], 0, 0, widths[0], height);
  context.drawImage(pictures[1], widths[0] + 16, 0, widths[1], height);
  const style = getComputedStyle(document.documentElement);
  const place = (side, [x, y]) => [(side ? widths[0] + 16 : 0) + ((x + 0.5) / sizes[side].width) * widths[side], ((y + 0.5) / sizes[side].height) * height];
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
    mark(context, ...place(1, point.true), 12, "#ffffff");
    for (const [width, stroke] of [[7, "rgba(0,0,0,.55)"], [4, shade]]) {
      context.setLineDash(point.correct ? [] : [14, 10]);
      context.lineWidth = width;
      context.strokeStyle = stroke;
      context.beginPath();
      context.moveTo(...start);
      context.lineTo(...end);
      context.stroke();
    }
    context.setLineDash([]);
    mark(context, ...start, 6, shade);
    mark(context, ...end, 8, shade, point.correct ? "ring" : "cross");
  }
  probe.remove();
}
