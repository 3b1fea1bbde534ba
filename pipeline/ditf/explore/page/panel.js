// Images with points and similarity maps over them, as several views show them.

import { drawPicture, element, loadImage, mark, saveButton } from "./elements.js";
import { colourMap, similarityMap } from "./similarity.js";
import * as source from "./source.js";

const HEAT = 0.7; // opacity of a similarity map over its image

// Draws an image in grey under the similarities of its tokens to a unit descriptor. Returns them, the largest one, and
// the centre of the most similar token in pixels of the image.
export function drawSimilarity(context, picture, query, tokens) {
  const { rows, columns, width, height } = tokens;
  const values = similarityMap(query, tokens);
  const { canvas: map, high } = colourMap(values, rows, columns);
  const { canvas } = context;
  context.filter = "grayscale(1)"; // so that only the map has colours
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  context.globalAlpha = HEAT;
  context.imageSmoothingEnabled = true;
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  const strongest = values.indexOf(high);
  const best = [((strongest % columns) + 0.5) * (width / columns) - 0.5, (Math.floor(strongest / columns) + 0.5) * (height / rows) - 0.5];
  return { values, high, best };
}

// Returns the colours of similarity maps with their meaning.
export function similarityScale() {
  return element("span", {}, "less similar", element("span", { class: "scale" }), "more similar");
}

// An image on a canvas, with a caption. Coordinates are pixels of the image.
export class Panel {
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

  clear(text) {
    this.context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    this.value.textContent = text;
  }

  drawPoint(point) {
    this.context.drawImage(this.picture, 0, 0, this.canvas.width, this.canvas.height);
    mark(this.context, ...this.toCanvas(point), this.markSize);
    this.value.textContent = `${point[0]}, ${point[1]}`;
  }

  drawMap(query, pinned) {
    const { values, high, best } = drawSimilarity(this.context, this.picture, query, this.tokens);
    this.values = values;
    if (pinned) return; // the exact match follows
    mark(this.context, ...this.toCanvas(best), this.markSize);
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
