// A point over an image that follows the mouse, a finger or the arrow keys.

import { arrowStep, inside, pixelAt } from "./elements.js";

export class Pointer {
  // `image` has the width and the height in pixels. `onmove` is called at most once per frame of the screen, and `onpin`
  // after a click, a touch or Enter. A second click or Escape lets the point move again.
  constructor(canvas, image, onmove, onpin) {
    Object.assign(this, { image, onmove, onpin, point: null, pinned: false, waiting: false });
    canvas.classList.add("hover");
    canvas.tabIndex = 0;
    const at = (event) => pixelAt(event, canvas, image);
    canvas.addEventListener("pointermove", (event) => {
      if (!this.pinned || event.pointerType !== "mouse") this.move(...at(event));
    });
    canvas.addEventListener("pointerdown", (event) => {
      const mouse = event.pointerType === "mouse";
      const pins = mouse && !this.pinned;
      if (mouse) this.pinned = false;
      this.move(...at(event));
      if (pins) this.pin();
    });
    canvas.addEventListener("pointerup", (event) => event.pointerType !== "mouse" && this.pin());
    canvas.addEventListener("keydown", (event) => {
      const step = arrowStep(event);
      if (step) {
        event.preventDefault();
        this.pinned = false;
        const [x, y] = this.point ?? [Math.round(image.width / 2), Math.round(image.height / 2)];
        this.move(x + step[0], y + step[1]);
      } else if (event.key === "Enter" && this.point) this.pin();
      else if (event.key === "Escape") this.pinned = false;
    });
  }

  move(x, y) {
    this.point = inside([x, y], this.image);
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (this.point) this.onmove();
    });
  }

  pin() {
    this.pinned = true;
    this.onpin();
  }

  // Pins the point that an address holds, such as "80,60", without calling `onpin`. Returns whether there is one.
  restore(text) {
    if (!/^\d+,\d+$/.test(text ?? "")) return false;
    this.point = inside(text.split(",").map(Number), this.image);
    this.pinned = true;
    return true;
  }

  clear() {
    this.point = null;
    this.pinned = false;
  }
}
