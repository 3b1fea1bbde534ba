// Search: the most similar places or regions in all images of an index.

import { chooseTask } from "./choose.js";
import { arrowStep, drawPicture, element, figureWithButton, inside, loadImage, mark, message, pixelAt, saveButton, say, select } from "./elements.js";
import * as source from "./source.js";

export const title = "Search";
const DRAG = 8; // pixels of the screen; a shorter movement is a click

export async function show(view) {
  const { mount, state, go } = view;
  const { task, menu } = chooseTask(view, "retrieval", (name) => go({ view: "search", task: name, source: "", area: "", category: "" }), {
    label: "Index of",
    text: (each) => `${each.dataset} (${each.name})`,
  });
  const { images, categories } = await source.images(task.features);
  const byId = new Map(images.map((each) => [each.id, each]));
  const image = byId.has(state.source) ? state.source : images[0].id;
  const { width, height } = byId.get(image);
  const area = (state.area ?? "").split(",").map(Number);
  const hits = element("div", { class: "cards" });
  const canvas = element("canvas", { class: "hover", tabindex: 0, role: "img", "aria-label": `${image}. Click a point or drag a box to search. Arrow keys move a point, Enter searches there.` });
  mount(
    element("div", { class: "controls" },
      menu,
      select("Image", images.map((each) => [each.id, each.id.startsWith("upload/") ? each.name : each.id]), image, (id) => go({ view: "search", source: id, area: "" })),
      select("Category of hits", [["", "all"], ...categories.map((each) => [each, each])], state.category ?? "", (value) => go({ view: "search", category: value })),
    ),
    element("p", { class: "legend" }, "Click a point or drag a box. Without either, similar images are found. Click a result to go on from there."),
    element("div", { class: "stage" }, element("figure", {}, canvas, element("figcaption", {}, element("strong", {}, byId.get(image).name), element("span"), saveButton(canvas, `${image}-search`))), hits),
  );
  const picture = await loadImage(source.pictureAddress(task.features, image));
  const context = drawPicture(canvas, picture);
  const scale = canvas.width / width;
  const draw = (shape) => {
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    outline(context, shape, scale);
  };
  draw(area);
  const at = (event) => pixelAt(event, canvas, { width, height });
  let start = null;
  const boxTo = (event) => {
    const [[x0, y0], [x1, y1]] = [start.point, at(event)];
    return [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1) + 1, Math.max(y0, y1) + 1];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    start = { point: at(event), x: event.clientX, y: event.clientY };
  });
  canvas.addEventListener("pointermove", (event) => start && draw(boxTo(event)));
  canvas.addEventListener("pointerup", (event) => {
    const clicked = Math.hypot(event.clientX - start.x, event.clientY - start.y) < DRAG;
    const next = clicked ? start.point : boxTo(event);
    start = null;
    go({ view: "search", task: task.name, source: image, area: next.join(",") });
  });
  let point = area.length === 2 ? area : [Math.floor(width / 2), Math.floor(height / 2)];
  canvas.addEventListener("keydown", (event) => {
    const step = arrowStep(event);
    if (step) {
      event.preventDefault();
      point = inside([point[0] + step[0], point[1] + step[1]], { width, height });
      draw(point);
      say(point.join(", "));
    } else if (event.key === "Enter") go({ view: "search", task: task.name, source: image, area: point.join(",") });
  });
  const body = { task: task.name, image };
  if (area.length === 2) body.point = area;
  if (area.length === 4) body.box = area;
  if (state.category) body.category = state.category;
  const { hits: rows } = await source.search(body);
  for (const hit of rows) hits.append(card(task, hit, byId.get(hit.image), go));
  if (!rows.length) hits.replaceWith(message("No image of this category is similar."));
}

function outline(context, shape, scale) {
  const [x0, y0, x1, y1] = shape.map((value) => value * scale);
  const size = Math.max(5, context.canvas.width / 45);
  if (shape.length === 2 && Number.isFinite(x0)) mark(context, x0, y0, size);
  if (shape.length === 4) {
    for (const [width, colour] of [[size / 2, "rgba(0,0,0,.7)"], [size / 5, "#fde725"]]) {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
  }
}

function card(task, hit, row, go) {
  const canvas = element("canvas");
  const area = hit.box && !Number.isInteger(hit.token) ? hit.box.map(Math.round) : hit.point?.map(Math.round);
  const open = () => go({ view: "search", source: hit.image, area: area?.join(",") ?? "" });
  const made = element("article", { class: "card", "data-image": hit.image });
  made.append(figureWithButton(canvas, open, hit.image, `similarity ${hit.similarity.toFixed(3)}`, "Search from here.", `${hit.image}-hit`));
  loadImage(source.pictureAddress(task.features, hit.image, 480)).then((picture) => {
    const context = drawPicture(canvas, picture);
    if (hit.box) outline(context, hit.box, canvas.width / row.width);
  }).catch((error) => made.replaceChildren(message(error.message)));
  return made;
}
