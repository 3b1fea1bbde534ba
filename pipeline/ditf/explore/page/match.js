// Match: the similarity maps of all targets follow the mouse over the source image.

import { chooseEntry } from "./choose.js";
import { drawPicture, element, loadImage, mark, message, saveButton, say, select } from "./elements.js";
import { colourMap, descriptorAt, similarityMap } from "./similarity.js";
import * as source from "./source.js";

export const title = "Match";
const HEAT = 0.7; // opacity of a similarity map over its image
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
      element("span", {}, "less similar", element("span", { class: "scale" }), "more similar"),
    ),
    element("div", { class: "stage" },
      sourcePanel.figure,
      grid(panels, columns.length),
      picker,
    ),
  );
  sourcePanel.canvas.classList.add("hover");
  sourcePanel.canvas.tabIndex = 0;
  sourcePanel.canvas.setAttribute("aria-label", `${first}. Arrow keys move the point, Enter pins it.`);

  const queries = new Map(); // source tokens by column
  await Promise.all([
    sourcePanel.load(),
    ...columns.map(async (column) => queries.set(column, await source.tokens(column.view, first, column.entry.revision))),
    ...panels.map((panel) => panel.load().catch((error) => panel.figure.replaceChildren(message(error.message)))),
  ]);
  const readable = panels.filter((panel) => panel.tokens);
  const benchmark = project.tasks.find((task) => task.type === "correspondence" && task.features === entry.name && !task.missing);
  let point = null;
  let pinned = false;
  let waiting = false;

  function draw() {
    waiting = false;
    if (!point) return;
    sourcePanel.drawPoint(point);
    const made = columns.map((column) => descriptorAt(queries.get(column), ...point));
    for (const panel of readable) panel.drawMap(made[panels.indexOf(panel) % columns.length], pinned);
  }
  function move(x, y) {
    const { width, height } = sourcePanel;
    point = [Math.min(Math.max(Math.round(x), 0), width - 1), Math.min(Math.max(Math.round(y), 0), height - 1)];
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(draw);
    }
  }
  async function pin() {
    pinned = true;
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
  const at = (event) => {
    const box = sourcePanel.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * sourcePanel.width - 0.5, ((event.clientY - box.top) / box.height) * sourcePanel.height - 0.5];
  };
  sourcePanel.canvas.addEventListener("pointermove", (event) => {
    if (pinned && event.pointerType === "mouse") return;
    move(...at(event));
  });
  sourcePanel.canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && pinned) pinned = false;
    else if (event.pointerType === "mouse") {
      move(...at(event));
      pin().catch(report);
      return;
    }
    move(...at(event));
  });
  sourcePanel.canvas.addEventListener("pointerup", (event) => {
    if (event.pointerType !== "mouse") pin().catch(report);
  });
  sourcePanel.canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 20 : 4;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in moves) {
      event.preventDefault();
      pinned = false;
      const [x, y] = point ?? [sourcePanel.width / 2, sourcePanel.height / 2];
      move(x + moves[event.key][0], y + moves[event.key][1]);
    } else if (event.key === "Enter" && point) pin().catch(report);
    else if (event.key === "Escape") pinned = false;
  });
  if (/^\d+,\d+$/.test(state.point ?? "")) {
    move(...state.point.split(",").map(Number));
    await pin();
  } else {
    move(sourcePanel.width / 2, sourcePanel.height / 2);
  }
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

// An image on a canvas, with a caption. Coordinates are pixels of the image.
class Panel {
  constructor(image, entry, view, label) {
    this.image = image;
    this.label = label;
    this.entry = entry;
    this.view = view;
    this.canvas = element("canvas", { role: "img", "aria-label": view ? `Similarity over ${image}, ${label}` : image });
    this.value = element("span");
    this.figure = element("figure", {}, this.canvas, element("figcaption", {}, element("strong", { title: `${image}, ${label}` }, label), this.value, saveButton(this.canvas, view ? `${image}-${label}` : image)));
    if (view) this.figure.dataset.descriptor = view.descriptor;
    this.figure.dataset.image = image;
  }

  async load() {
    const [picture, tokens] = await Promise.all([
      loadImage(source.pictureAddress(this.entry.name, this.image)),
      this.view ? source.tokens(this.view, this.image, this.entry.revision) : null,
    ]);
    this.picture = picture;
    this.tokens = tokens;
    this.context = drawPicture(this.canvas, picture);
    const size = tokens ?? (await source.images(this.entry.name)).images.find((each) => each.id === this.image);
    this.width = size.width;
    this.height = size.height;
  }

  // Returns the place on the canvas of a point in pixels of the image.
  toCanvas([x, y]) {
    return [((x + 0.5) / this.width) * this.canvas.width, ((y + 0.5) / this.height) * this.canvas.height];
  }

  get markSize() {
    return Math.max(this.canvas.width, this.canvas.height) / 45;
  }

  drawPoint(point) {
    this.context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    mark(this.context, ...this.toCanvas(point), this.markSize);
    this.value.textContent = `${point[0]}, ${point[1]}`;
  }

  drawMap(query, pinned) {
    const { rows, columns } = this.tokens;
    this.values = similarityMap(query, this.tokens);
    const { canvas, high } = colourMap(this.values, rows, columns);
    const { context } = this;
    context.globalAlpha = 1;
    context.filter = "grayscale(1)"; // so that only the map has colours
    context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    context.filter = "none";
    context.globalAlpha = HEAT;
    context.imageSmoothingEnabled = true;
    context.drawImage(canvas, 0, 0, this.canvas.width, this.canvas.height);
    context.globalAlpha = 1;
    if (pinned) return; // the exact match follows
    const best = this.values.indexOf(Math.max(...this.values));
    const centre = [((best % columns) + 0.5) * (this.width / columns) - 0.5, (Math.floor(best / columns) + 0.5) * (this.height / rows) - 0.5];
    mark(context, ...this.toCanvas(centre), this.markSize);
    this.value.textContent = high.toFixed(2);
  }

  drawMatch(found, truth) {
    const correct = !truth || Math.hypot(found.match[0] - truth.true[0], found.match[1] - truth.true[1]) <= truth.allowed;
    mark(this.context, ...this.toCanvas(found.match), this.markSize, "#fde725", correct ? "ring" : "cross");
    let text = `${found.match.join(", ")} · ${found.similarity.toFixed(3)}`;
    if (truth) {
      mark(this.context, ...this.toCanvas(truth.true), this.markSize * 1.5, "#ffffff");
      const error = Math.hypot(found.match[0] - truth.true[0], found.match[1] - truth.true[1]);
      text += ` · error ${error.toFixed(1)} px = ${(error / truth.allowed).toFixed(2)} of the threshold`;
    }
    this.value.textContent = text;
    this.figure.dataset.match = found.match.join(",");
  }
}
