// Match: the similarity maps of all targets follow the mouse over the source image.

import { chooseEntry } from "./choose.js";
import { element, message, say, select } from "./elements.js";
import { Panel, similarityScale } from "./panel.js";
import { Pointer } from "./pointer.js";
import { descriptorAt } from "./similarity.js";
import * as source from "./source.js";

export const title = "Match";
const THUMBNAIL = 160; // pixels
const MOST_TARGETS = 6;

export async function show(view) {
  const { mount, report, project, state, writeState, go } = view;
  const { entry, entries, block, blocks, menu } = chooseEntry(view, (name) => go({ entry: name, source: "", targets: "", point: "", block: "" }));
  const { images } = await source.images(entry.name);
  const known = new Set(images.map((each) => each.id));
  const first = known.has(state.source) ? state.source : images[0].id;
  let targets = (state.targets ?? "").split("|").filter((id) => known.has(id));
  if (!targets.length) targets = defaultTargets(images, first);
  const parse = (text) => parseColumn(text, entries, entry, block);
  const chosen = (state.columns ?? "").split("|").map(parse).filter((column) => column);
  const columns = chosen.length ? chosen : entry.descriptors.slice(0, 3).map(parse);

  const name = (id) => images.find((each) => each.id === id).name;
  const sourcePanel = new Panel(first, entry, null, name(first));
  const label = (target, column) => (targets.length > 1 ? `${name(target)}, ${column.label}` : column.label);
  const panels = targets.flatMap((target) => columns.map((column) => new Panel(target, column.entry, column.view, label(target, column))));
  const picker = element("details", { class: "picker", open: true }, element("summary", {}, "Choose images"), imagePicker(images, entry, first, targets, go));
  mount(
    controls(menu, entries, entry, blocks, block, columns, go),
    element("p", { class: "legend" },
      "Move over the left image. Click to pin a point and get the exact match.",
      similarityScale(),
    ),
    element("div", { class: "stage" },
      sourcePanel.figure,
      grid(panels, columns.length),
      picker,
    ),
  );
  sourcePanel.canvas.setAttribute("aria-label", `${first}. Arrow keys move the point, Enter pins it.`);

  const queries = new Map(); // source tokens by column
  await Promise.all([
    sourcePanel.load(),
    ...columns.map(async (column) => queries.set(column, await source.tokens(column.view, first, column.entry.revision))),
    ...panels.map((panel) => panel.load().catch((error) => panel.figure.replaceChildren(message(error.message)))),
  ]);
  const readable = panels.filter((panel) => panel.tokens);
  const benchmark = project.tasks.find((task) => task.type === "correspondence" && task.features === entry.name && !task.missing);
  const pointer = new Pointer(sourcePanel.canvas, sourcePanel, draw, () => pin().catch(report));

  function draw() {
    sourcePanel.drawPoint(pointer.point);
    const made = columns.map((column) => descriptorAt(queries.get(column), ...pointer.point));
    for (const panel of readable) panel.drawMap(made[panels.indexOf(panel) % columns.length], pointer.pinned);
  }
  async function pin() {
    const { point } = pointer;
    writeState({ view: "match", entry: entry.name, block, source: first, targets: targets.join("|"), columns: columns.map((column) => column.text).join("|"), point: point.join(",") });
    draw();
    const spoken = [];
    await Promise.all(readable.map(async (panel) => {
      const [found] = (await source.match(panel.view, first, panel.image, [point])).matches;
      const truth = benchmark && panel.view.entry === entry.name && panel.view.block === benchmark.block && (await trueMatch(benchmark, panel, first, point));
      panel.drawMatch(found, truth);
      spoken.push(`${panel.image}, ${panel.label}: ${found.match.join(", ")}, similarity ${found.similarity.toFixed(2)}`);
    }));
    say(spoken.join(". "));
  }
  if (pointer.restore(state.point)) await pin();
  else pointer.move(Math.round(sourcePanel.width / 2), Math.round(sourcePanel.height / 2));
  return { panels };
}

// The first images of the same category, since they show the same kind of thing.
function defaultTargets(images, first) {
  const category = images.find((each) => each.id === first).category;
  const others = images.filter((each) => each.id !== first);
  const same = others.filter((each) => each.category === category);
  return (same.length ? same : others).slice(0, 1).map((each) => each.id);
}

// Reads a column, "descriptor", "descriptor@block" or "descriptor@block@entry". Without a block it follows the slider.
function parseColumn(text, entries, entry, block) {
  const [descriptor, number, ...rest] = text.split("@");
  const from = rest.length ? entries.find((each) => each.name === rest.join("@")) : entry;
  const chosen = number === undefined ? block : Number(number);
  if (from?.dataset !== entry.dataset || !from.descriptors.includes(descriptor)) return null;
  if (!from.blocks.some((each) => each.block === chosen)) return null;
  const label = [descriptor, ...(number === undefined ? [] : [`block ${chosen}`]), ...(rest.length ? [from.name] : [])].join(", ");
  return { text, label, entry: from, view: { entry: from.name, block: chosen, descriptor } };
}

function controls(menu, entries, entry, blocks, block, columns, go) {
  const shown = columns.map((column) => column.text);
  const added = shown.filter((text) => !entry.descriptors.includes(text));
  const keep = (texts) => texts.length && go({ columns: texts.join("|") });
  const chips = entry.descriptors.map((name) =>
    element("button", {
      type: "button", class: "chip", "aria-pressed": String(shown.includes(name)),
      onclick: () => keep([...entry.descriptors.filter((each) => shown.includes(each) !== (each === name)), ...added]),
    }, name),
  );
  for (const column of columns.filter(({ text }) => added.includes(text))) {
    const remove = () => keep(shown.filter((text) => text !== column.text));
    chips.push(element("button", { type: "button", class: "chip", "aria-pressed": "true", title: "Remove this column", onclick: remove }, `${column.label} ×`));
  }
  const others = entries.filter((each) => each.dataset === entry.dataset);
  if (others.length > 1 || blocks.length > 1) chips.push(columnPicker(others, entry, block, (text) => keep([...shown.filter((each) => each !== text), text])));
  const parts = [menu];
  if (blocks.length > 1) {
    const slider = element("input", {
      type: "range", min: 0, max: blocks.length - 1, value: blocks.indexOf(block), "aria-label": "Block", "aria-valuetext": `block ${block}`,
      onchange: (event) => go({ block: blocks[event.target.value] }),
    });
    parts.push(element("label", {}, `Block ${block}`, slider));
  } else parts.push(element("label", {}, "Block", element("output", {}, String(block))));
  parts.push(element("div", { role: "group", "aria-label": "Columns" }, element("label", {}, "Columns"), element("div", { class: "chips" }, ...chips)));
  return element("div", { class: "controls" }, ...parts);
}

// Returns a menu that adds a column of another block or other features of the same images.
function columnPicker(entries, entry, block, add) {
  const menu = element("details", { class: "menu" });
  function fill(name, number, descriptor) {
    const from = entries.find((each) => each.name === name);
    const blocks = from.blocks.map((each) => each.block);
    const chosen = blocks.includes(Number(number)) ? Number(number) : blocks.at(-1);
    const known = from.descriptors.includes(descriptor) ? descriptor : from.descriptors[0];
    menu.replaceChildren(
      element("summary", { class: "chip" }, "Add a column"),
      element("div", { class: "panel controls" },
        select("Features", entries.map((each) => [each.name, each.name]), name, (value) => fill(value, chosen, known)),
        select("Block", blocks.map((each) => [each, each]), chosen, (value) => fill(name, value, known)),
        select("Descriptor", from.descriptors.map((each) => [each, each]), known, (value) => fill(name, chosen, value)),
        element("button", { type: "button", class: "primary", onclick: () => add(`${known}@${chosen}${name === entry.name ? "" : `@${name}`}`) }, "Add"),
      ),
    );
  }
  fill(entry.name, block, "adaln");
  return menu;
}

function grid(panels, columns) {
  const made = element("div", { class: "grid" }, ...panels.map((panel) => panel.figure));
  made.style.setProperty("--columns", columns);
  return made;
}

function imagePicker(images, entry, first, targets, go) {
  const strip = element("div", { class: "strip" });
  const mode = { current: "source" };
  const choice = (value, text) => {
    const button = element("button", { type: "button", class: "chip", "aria-pressed": String(mode.current === value), onclick: () => {
      mode.current = value;
      fill();
      for (const each of button.parentElement.children) each.setAttribute("aria-pressed", String(each === button));
    } }, text);
    return button;
  };
  function fill(text = "") {
    const chosen = images.filter((each) => each.id.toLowerCase().includes(text.toLowerCase())).slice(0, 200);
    strip.replaceChildren(...chosen.map((each) => {
      const pressed = mode.current === "source" ? each.id === first : targets.includes(each.id);
      return element("button", { type: "button", title: each.id, "aria-pressed": String(pressed), onclick: () => pick(each.id) },
        element("img", { src: source.pictureAddress(entry.name, each.id, THUMBNAIL), alt: "", loading: "lazy" }),
        element("span", {}, each.name),
      );
    }));
  }
  function pick(id) {
    if (mode.current === "source") go({ source: id, point: "" });
    else {
      const next = targets.includes(id) ? targets.filter((each) => each !== id) : [...targets, id].slice(-MOST_TARGETS);
      if (next.length) go({ targets: next.join("|") });
    }
  }
  fill();
  const filter = element("input", { type: "search", placeholder: "part of a name", "aria-label": "Find images by name", oninput: (event) => fill(event.target.value) });
  return element("div", {}, element("div", { class: "controls" }, element("div", { class: "chips" }, choice("source", "Source"), choice("target", "Targets")), filter), strip);
}

// The true match of a point, if the benchmark has a keypoint there.
async function trueMatch(task, panel, first, [x, y]) {
  if (!task.descriptors.includes(panel.view.descriptor)) return null;
  const { pairs } = await source.pairs({ task: task.name, descriptor: panel.view.descriptor, source: first, target: panel.image });
  for (const pair of pairs) {
    for (const point of pair.points) {
      if (Math.hypot(point.source[0] - x, point.source[1] - y) <= 3) return { ...point, allowed: pair.allowed, alpha: pair.alpha };
    }
  }
  return null;
}
