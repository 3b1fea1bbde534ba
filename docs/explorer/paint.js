// A mask that the user paints over an image with the mouse, a finger, a pen or the keyboard.

import { element } from "./elements.js";
import { COLOURS, overlay, readMask } from "./masks.js";

export class Painter {
  // `redraw` is called after each change.
  constructor(canvas, width, height, redraw) {
    this.canvas = canvas;
    this.mask = { values: new Uint8Array(width * height), width, height };
    this.redraw = redraw;
    this.object = 1;
    this.radius = Math.round(width / 30);
    this.cursor = null; // where the brush is, in pixels of the image
    this.last = null; // previous point of the current stroke
    this.stopper = new AbortController();
    const on = (name, handler) => canvas.addEventListener(name, handler, { signal: this.stopper.signal });
    on("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.last = null;
      this.stroke(this.at(event));
    });
    on("pointermove", (event) => {
      if (event.buttons) for (const each of event.getCoalescedEvents?.() ?? [event]) this.stroke(this.at(each));
      this.cursor = this.at(event);
      this.redraw();
    });
    on("pointerleave", () => {
      this.cursor = null;
      this.redraw();
    });
    on("keydown", (event) => this.key(event));
  }

  get empty() {
    return this.mask.values.every((value) => value === 0);
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.mask.width, ((event.clientY - box.top) / box.height) * this.mask.height];
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!(event.key in moves) && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = this.cursor ?? [this.mask.width / 2, this.mask.height / 2];
    const [right, down] = moves[event.key] ?? [0, 0];
    this.cursor = [x + right * this.radius, y + down * this.radius];
    if (event.key === " " || event.shiftKey) {
      this.last = null;
      this.stroke(this.cursor);
    }
    this.redraw();
  }

  // Paints from the last point to this one.
  stroke([x, y]) {
    const [x0, y0] = this.last ?? [x, y];
    const steps = Math.max(1, Math.ceil(Math.hypot(x - x0, y - y0) / Math.max(1, this.radius / 2)));
    for (let i = 1; i <= steps; i++) this.disc(x0 + ((x - x0) * i) / steps, y0 + ((y - y0) * i) / steps);
    this.last = [x, y];
    this.redraw();
  }

  disc(x, y) {
    const { values, width, height } = this.mask;
    const { radius } = this;
    for (let row = Math.max(0, Math.ceil(y - radius)); row <= Math.min(height - 1, y + radius); row++) {
      const half = Math.sqrt(radius * radius - (row - y) ** 2);
      const from = Math.max(0, Math.ceil(x - half));
      const to = Math.min(width, Math.floor(x + half) + 1);
      if (from < to) values.fill(this.object, row * width + from, row * width + to);
    }
  }

  clear() {
    this.mask.values.fill(0);
    this.redraw();
  }

  async load(address, name) {
    const mask = await readMask(address);
    const { width, height } = this.mask;
    if (mask.width !== width || mask.height !== height) {
      throw new Error(`${name}: ${mask.width}x${mask.height} pixels, but the frames have ${width}x${height}. Resize the mask without interpolation.`);
    }
    this.mask = { ...mask, values: mask.values.map((value) => (value === 255 ? 0 : value)) };
    this.redraw();
  }

  draw(context) {
    const { width, height } = context.canvas;
    context.imageSmoothingEnabled = false;
    context.drawImage(overlay(this.mask), 0, 0, width, height);
    if (!this.cursor) return;
    const scale = width / this.mask.width;
    for (const [thick, colour] of [[4, "rgba(0,0,0,.7)"], [2, "#ffffff"]]) {
      context.lineWidth = thick;
      context.strokeStyle = colour;
      context.beginPath();
      context.arc(this.cursor[0] * scale, this.cursor[1] * scale, this.radius * scale, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // Returns the controls of the brush.
  tools() {
    const choices = COLOURS.map((_, i) => element("option", { value: i + 1 }, `object ${i + 1}`));
    const brush = element("select", { onchange: (event) => (this.object = Number(event.target.value)) }, ...choices, element("option", { value: 0 }, "eraser"));
    const size = element("input", {
      type: "range", min: 2, max: Math.round(this.mask.width / 8), value: this.radius,
      oninput: (event) => (this.radius = Number(event.target.value)),
    });
    return [element("label", {}, "Brush", brush), element("label", {}, "Size", size), element("button", { type: "button", onclick: () => this.clear() }, "Clear")];
  }

  stop() {
    this.stopper.abort();
  }
}
