// Video: a player of frames with predicted and true masks, their scores, similarities to a reference frame, and
// propagation of a painted mask.

import { chooseTask } from "./choose.js";
import { drawPicture, element, loadImage, mark, pixelAt, saveButton, say, select } from "./elements.js";
import { follow } from "./jobs.js";
import { encodeMask, overlay, readMask } from "./masks.js";
import { Painter } from "./paint.js";
import { drawSimilarity, Panel, similarityScale } from "./panel.js";
import { Pointer } from "./pointer.js";
import { descriptorAt } from "./similarity.js";
import * as source from "./source.js";

export const title = "Video";
const RATE = 8; // frames per second
const KEPT = 64; // frames and masks in memory
const CHART = [1000, 320]; // pixels
const [LEFT, RIGHT] = [70, 20]; // margins in pixels

export async function show(view) {
  const { mount, report, project, state, writeState, go } = view;
  const cleared = { frame: "", reference: "", point: "" };
  const { task, descriptor, menu } = chooseTask(view, "propagation", (name) => go({ view: "video", task: name, sequence: "", descriptor: "", ...cleared }));
  const { sequences, settings } = await source.videos(task.name, descriptor);
  const sequence = sequences.some((each) => each.name === state.sequence) ? state.sequence : sequences[0].name;
  const video = await source.video(sequence, task.name, descriptor);
  const entry = project.entries.find((each) => each.name === task.features);
  const player = new Player({ task, descriptor, video, settings, entry, state, writeState });
  const score = (each) => (each.scores ? `${each.name}, J&F ${percent(each.scores["J&F"])}` : each.name);
  mount(
    element("div", { class: "controls" },
      menu,
      select("Sequence", sequences.map((each) => [each.name, score(each)]), sequence, (name) => go({ view: "video", task: task.name, sequence: name, ...cleared })),
      select("Descriptor", task.descriptors.map((name) => [name, name]), descriptor, (name) => go({ view: "video", task: task.name, descriptor: name })),
      player.layers(),
      player.worstButton,
      element("button", { type: "button", onclick: () => openInMatch(task, video, player, go) }, "Open in Match"),
      element("button", { type: "button", onclick: () => player.setReference(player.index).then(() => player.goto(player.index)).catch(report) }, "Use as reference"),
    ),
    element("p", { class: "legend" }, "Move over one of the two frames to see what is similar in the other. Click in the reference to pin a point, and play.", similarityScale()),
    element("div", { class: "stage video" }, player.figure, element("div", { class: "column" }, player.referencePlace, player.chartFigure, player.painting())),
  );
  await player.setReference(Math.max(0, video.frames.findIndex((frame) => frame.name === state.reference)), state.point);
  await player.goto(player.index);
  return player;
}

const percent = (value) => (100 * value).toFixed(1);

function openInMatch(task, video, player, go) {
  const shown = player.index === player.referenceIndex ? video.frames[(player.index + 1) % video.frames.length] : player.frame;
  const point = player.pointer.pinned ? player.pointer.point.join(",") : "";
  go({ view: "match", entry: task.features, block: task.block, source: player.reference.image, targets: shown.id, columns: "", point });
}

class Player {
  constructor({ task, descriptor, video, settings, entry, state, writeState }) {
    Object.assign(this, { task, descriptor, video, settings, entry, writeState });
    this.index = Math.max(0, video.frames.findIndex((frame) => frame.name === state.frame));
    this.shown = new Set((state.masks ?? "predicted|true").split("|").filter(Boolean));
    this.playing = false;
    this.painter = null;
    this.job = null; // the propagation of a painted mask whose masks are shown: {id, frames by name}
    this.hover = null; // pixel of the shown frame under the mouse
    this.kept = new Map();
    this.canvas = element("canvas", { role: "img", tabindex: 0, "aria-label": `Frames of ${video.name}. Space plays, arrow keys step.`, onkeydown: (event) => this.key(event) });
    this.canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.point(pixelAt(event, this.canvas, video)));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.playButton = element("button", { type: "button", onclick: () => this.toggle() }, "Play");
    this.slider = element("input", { type: "range", min: 0, max: video.frames.length - 1, value: this.index, "aria-label": "Frame", oninput: (event) => this.goto(Number(event.target.value)) });
    this.caption = element("strong");
    this.values = element("span");
    this.figure = element("figure", {},
      this.canvas,
      element("div", { class: "player" }, this.playButton, this.slider),
      element("figcaption", {}, this.caption, this.values, saveButton(this.canvas, `${video.name}-frame`)),
    );
    this.worstButton = element("button", { type: "button", onclick: () => this.goto(this.worst()) }, "Worst frame");
    this.referencePlace = element("div");
    this.chart = element("canvas", { class: "chart", width: CHART[0], height: CHART[1], role: "img", onclick: (event) => this.pick(event) });
    this.chartFigure = element("figure", {},
      this.chart,
      element("figcaption", {}, element("strong", {}, "J (solid) and F (dashed) per frame"), element("span", {}, "Click to go to a frame."), saveButton(this.chart, `${video.name}-scores`)),
    );
    this.showScores();
    this.onTheme = () => this.drawChart();
    window.addEventListener("theme", this.onTheme);
  }

  get frame() {
    return this.video.frames[this.index];
  }

  // Returns the scores of a frame for the masks that are shown.
  scores(frame) {
    return this.job ? this.job.frames.get(frame.name) : frame;
  }

  stop() {
    this.playing = false;
    this.painter?.stop();
    window.removeEventListener("theme", this.onTheme);
  }

  // Returns the index of the frame with the lowest J&F, or null if none is scored.
  worst() {
    const scored = this.video.frames.map((frame, i) => [this.scores(frame)["J&F"], i]).filter(([value]) => value !== null);
    return scored.length ? scored.reduce((low, each) => (each[0] < low[0] ? each : low))[1] : null;
  }

  // Describes the chart for screen readers, and offers the worst frame if there is one.
  showScores() {
    const worst = this.worst();
    const text = worst === null ? "This sequence is not scored." : `J and F per frame. The lowest mean, ${percent(this.scores(this.video.frames[worst])["J&F"])}, is at frame ${worst + 1}.`;
    this.chart.setAttribute("aria-label", text);
    this.worstButton.disabled = worst === null;
  }

  // Makes a frame the reference, whose similarities to the shown frame follow the mouse. `point` is pinned there.
  async setReference(index, point) {
    this.referenceIndex = index;
    const { id, name } = this.video.frames[index];
    this.reference = new Panel(id, this.entry, null, `Reference: frame ${index + 1}, ${name}`);
    this.reference.canvas.setAttribute("aria-label", `${this.reference.label}. Arrow keys move a point, Enter pins it, Escape removes it.`);
    await this.reference.load();
    this.pointer = new Pointer(this.reference.canvas, this.reference, () => this.draw(), () => {
      this.writeState({ point: this.pointer.point.join(",") });
      this.draw();
    });
    const remove = () => {
      this.pointer.clear();
      this.writeState({ point: "" });
      this.draw();
    };
    this.reference.canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !this.pointer.pinned && remove());
    this.reference.canvas.addEventListener("keydown", (event) => event.key === "Escape" && remove());
    this.pointer.restore(point);
    this.writeState({ reference: index ? name : "", point: this.pointer.pinned ? point : "" });
    this.referencePlace.replaceChildren(this.reference.figure);
  }

  // Notes the pixel of the shown frame under the mouse, and draws at most once per frame of the screen.
  point(pixel) {
    if (this.painter || (!pixel && !this.hover)) return;
    const waiting = this.waiting;
    this.waiting = true;
    this.hover = pixel;
    if (waiting) return;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  // Returns the tokens of a frame.
  tokens(frame) {
    const view = { entry: this.task.features, block: this.task.block, descriptor: this.descriptor };
    return source.tokens(view, frame.id, this.entry.revision);
  }

  layers() {
    const chip = (name, text) => element("button", {
      type: "button", class: "chip", "aria-pressed": String(this.shown.has(name)),
      onclick: (event) => {
        if (!this.shown.delete(name)) this.shown.add(name);
        event.target.setAttribute("aria-pressed", String(this.shown.has(name)));
        this.writeState({ masks: [...this.shown].join("|") || "none" });
        this.draw();
      },
    }, text);
    return element("div", { role: "group", "aria-label": "Masks" }, element("label", {}, "Masks, filled and outlined"), element("div", { class: "chips" }, chip("predicted", "predicted"), chip("true", "true")));
  }

  key(event) {
    if (this.painter) return;
    const last = this.video.frames.length - 1;
    const steps = { ArrowLeft: this.index - 1, ArrowRight: this.index + 1, Home: 0, End: last };
    if (event.key === " ") this.toggle();
    else if (event.key in steps) this.goto(Math.min(Math.max(steps[event.key], 0), last));
    else return;
    event.preventDefault();
  }

  async toggle() {
    this.playing = !this.playing;
    this.playButton.textContent = this.playing ? "Pause" : "Play";
    while (this.playing && this.canvas.isConnected) {
      const wait = new Promise((resolve) => setTimeout(resolve, 1000 / RATE));
      await this.goto((this.index + 1) % this.video.frames.length);
      await wait;
    }
  }

  async goto(index) {
    this.index = index;
    this.slider.value = index;
    this.slider.setAttribute("aria-valuetext", `frame ${index + 1} of ${this.video.frames.length}`);
    const { name } = this.frame;
    const { J, F } = this.scores(this.frame);
    this.caption.textContent = `Frame ${index + 1} of ${this.video.frames.length}, ${name}`;
    this.values.textContent = (this.job ? "painted mask: " : "") + (J === null ? "not scored" : `J ${percent(J)}  F ${percent(F)}`);
    if (!this.playing) {
      this.writeState({ view: "video", task: this.task.name, sequence: this.video.name, descriptor: this.descriptor, frame: name });
      say(`${this.caption.textContent}, ${this.values.textContent}`);
    }
    this.drawChart();
    await this.draw();
    for (const ahead of [1, 2, 3]) this.layersOf(this.video.frames[(index + ahead) % this.video.frames.length]);
  }

  // Returns promises of the picture and of the masks of a frame. Similarities take the place of the predicted mask.
  layersOf(frame) {
    const layers = [this.keep(source.pictureAddress(this.task.features, frame.id), loadImage)];
    if (this.painter) return layers;
    const { name } = frame;
    if (this.shown.has("predicted") && !this.pointer.point) {
      const address = this.job ? source.maskOfJobAddress(this.job.id, name) : source.maskAddress(this.video.name, name, this.task.name, this.descriptor, "predicted");
      layers.push(this.keep(address, async (each) => overlay(await readMask(each))));
    }
    if (this.shown.has("true") && frame.true) {
      layers.push(this.keep(source.maskAddress(this.video.name, name, this.task.name, this.descriptor, "true"), async (each) => overlay(await readMask(each), true)));
    }
    return layers;
  }

  keep(address, load) {
    let value = this.kept.get(address);
    this.kept.delete(address);
    value ??= load(address);
    value.catch(() => this.kept.delete(address));
    this.kept.set(address, value);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return value;
  }

  async draw() {
    const { index, painter } = this;
    const similar = !painter && (this.pointer.point || this.hover);
    const tokens = similar ? Promise.all([this.tokens(this.video.frames[this.referenceIndex]), this.tokens(this.frame)]) : [];
    tokens.catch?.(() => {}); // shown below
    const [picture, ...masks] = await Promise.all(this.layersOf(this.frame));
    let pair = [];
    let problem = "";
    try {
      pair = await tokens;
    } catch (error) {
      problem = error.message;
    }
    if (index !== this.index || painter !== this.painter) return; // something else was chosen meanwhile
    const { canvas, reference } = this;
    const context = drawPicture(canvas, picture);
    const asked = pair.length && this.pointer.point;
    const found = asked && drawSimilarity(context, picture, descriptorAt(pair[0], ...asked), pair[1]);
    context.imageSmoothingEnabled = false;
    for (const mask of masks) context.drawImage(mask, 0, 0, canvas.width, canvas.height);
    this.painter?.draw(context);
    canvas.dataset.frame = this.frame.name;
    this.map = found ? found.values : null;
    if (found) mark(context, ...this.toCanvas(found.best), reference.markSize);
    if (pair.length && this.hover && !painter) {
      mark(context, ...this.toCanvas(this.hover), reference.markSize);
      reference.tokens = pair[0];
      reference.drawMap(descriptorAt(pair[1], ...this.hover), false);
    } else if (asked) reference.drawPoint(asked);
    else reference.clear(problem);
  }

  // Returns the place on the canvas of a point in pixels of the frame.
  toCanvas([x, y]) {
    return [((x + 0.5) / this.video.width) * this.canvas.width, ((y + 0.5) / this.video.height) * this.canvas.height];
  }

  pick(event) {
    const box = this.chart.getBoundingClientRect();
    const share = (((event.clientX - box.left) / box.width) * CHART[0] - LEFT) / (CHART[0] - LEFT - RIGHT);
    this.goto(Math.round(Math.min(Math.max(share, 0), 1) * (this.video.frames.length - 1)));
  }

  drawChart() {
    const [width, height] = CHART;
    const style = getComputedStyle(this.chart);
    const context = this.chart.getContext("2d");
    context.clearRect(0, 0, width, height);
    const x = (i) => LEFT + (i / Math.max(1, this.video.frames.length - 1)) * (width - LEFT - RIGHT);
    const y = (value) => height - 24 - value * (height - 48);
    context.strokeStyle = style.borderColor;
    context.lineWidth = 2;
    context.fillStyle = style.color;
    context.font = "24px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const share of [0, 0.5, 1]) {
      context.fillText(100 * share, LEFT - 14, y(share));
      context.beginPath();
      context.moveTo(LEFT, y(share));
      context.lineTo(width - RIGHT, y(share));
      context.stroke();
    }
    context.strokeStyle = style.color;
    for (const [measure, dashes] of [["J", []], ["F", [14, 10]]]) {
      context.setLineDash(dashes);
      context.lineWidth = 4;
      context.beginPath();
      let open = false;
      this.video.frames.forEach((frame, i) => {
        const value = this.scores(frame)[measure];
        if (value === null) open = false;
        else {
          if (open) context.lineTo(x(i), y(value));
          else context.moveTo(x(i), y(value));
          open = true;
        }
      });
      context.stroke();
    }
    context.setLineDash([]);
    context.lineWidth = 4;
    context.strokeStyle = style.accentColor;
    context.beginPath();
    context.moveTo(x(this.index), 0);
    context.lineTo(x(this.index), height);
    context.stroke();
  }

  // Returns the part of the page in which a mask is painted and propagated.
  painting() {
    const place = element("section", { class: "panel", "aria-label": "Your own mask" });
    this.showPainting(place);
    return place;
  }

  showPainting(place) {
    const start = element("button", { type: "button", onclick: () => this.startPainting(place) }, "Paint a mask");
    const parts = [element("h2", {}, "Your own mask"), element("p", { class: "quiet" }, "Paint or load a mask of the first frame. The cached features carry it to all other frames.")];
    const row = element("div", { class: "chips" }, start);
    if (this.job) {
      row.append(
        element("a", { class: "button", href: source.masksOfJobAddress(this.job.id), download: `${this.video.name}.zip` }, "Save masks"),
        element("button", { type: "button", onclick: () => { this.job = null; this.showScores(); this.showPainting(place); this.goto(this.index); } }, "Back to the results"),
      );
    }
    place.replaceChildren(...parts, row);
  }

  async startPainting(place) {
    this.playing = false;
    this.playButton.textContent = "Play";
    this.job = null;
    this.hover = null;
    this.showScores();
    this.referencePlace.hidden = true;
    let waiting = false;
    const redraw = () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        this.draw();
      });
    };
    this.painter = new Painter(this.canvas, this.video.width, this.video.height, redraw);
    for (const control of [this.slider, this.playButton]) control.disabled = true;
    this.canvas.classList.add("hover");
    this.canvas.focus();
    const problem = element("p", { class: "quiet", role: "alert" });
    const run = (work) => async () => {
      problem.textContent = "";
      try {
        await work();
      } catch (error) {
        problem.textContent = error.message;
      }
    };
    const file = element("input", { type: "file", accept: "image/png", hidden: true });
    file.addEventListener("change", run(async () => {
      const address = URL.createObjectURL(file.files[0]);
      try {
        await this.painter.load(address, file.files[0].name);
      } finally {
        URL.revokeObjectURL(address);
      }
    }));
    const fields = Object.entries(this.settings).map(([name, value]) => [name, element("input", { type: "number", min: 0, step: "any", value, name })]);
    const progress = element("div", { class: "progress", hidden: true });
    const { frames } = this.video;
    const fromTruth = run(() => this.painter.load(source.maskAddress(this.video.name, frames[0].name, this.task.name, this.descriptor, "true"), "mask"));
    place.replaceChildren(
      element("h2", {}, "Your own mask"),
      element("div", { class: "controls" },
        ...this.painter.tools(),
        element("button", { type: "button", onclick: () => file.click() }, "Load a mask"),
        file,
        ...(frames[0].true ? [element("button", { type: "button", onclick: fromTruth }, "Start from the true mask")] : []),
      ),
      element("details", {}, element("summary", {}, "Settings of the propagation"), element("div", { class: "controls" }, ...fields.map(([name, field]) => element("label", {}, name, field)))),
      element("div", { class: "chips" },
        element("button", { type: "button", class: "primary", onclick: run(() => this.propagate(place, progress, fields)) }, "Propagate"),
        element("button", { type: "button", onclick: () => this.stopPainting(place) }, "Close"),
      ),
      progress,
      problem,
    );
    await this.goto(0);
  }

  stopPainting(place) {
    this.painter.stop();
    this.painter = null;
    this.referencePlace.hidden = false;
    for (const control of [this.slider, this.playButton]) control.disabled = false;
    this.canvas.classList.remove("hover");
    this.showPainting(place);
    this.goto(this.index);
  }

  async propagate(place, progress, fields) {
    if (this.painter.empty) throw new Error("The mask shows no object. Paint the objects to follow.");
    const settings = Object.fromEntries(fields.map(([name, field]) => [name, field.value]));
    const request = { task: this.task.name, descriptor: this.descriptor, sequence: this.video.name, ...settings, mask: await encodeMask(this.painter.mask) };
    const { job } = await source.propagate(request);
    const result = await follow(job, progress, { text: "Propagating the mask", unit: "frames", start: "reading the features" });
    if (!result || !this.painter) return;
    this.job = { id: job, frames: new Map(result.frames.map((frame) => [frame.name, frame])) };
    this.showScores();
    this.shown.add("predicted");
    this.stopPainting(place);
    say("The mask is propagated. Play shows it.");
  }
}
