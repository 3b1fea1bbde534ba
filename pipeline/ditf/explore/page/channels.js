// Channels: the largest channels of an image, one of them as a map, and descriptors as colours.

import { chooseEntry } from "./choose.js";
import { drawPicture, element, loadImage, saveButton, select } from "./elements.js";
import { colourMap } from "./similarity.js";
import * as source from "./source.js";

export const title = "Channels";
const HEAT = 0.75;

export async function show(view) {
  const { mount, state, go } = view;
  const { entry, block, blocks, menu } = chooseEntry(view, (name) => go({ view: "channels", entry: name, source: "", block: "", channel: "" }));
  const { images } = await source.images(entry.name);
  const image = images.some((each) => each.id === state.source) ? state.source : images[0].id;
  const shown = (descriptor) => ({ entry: entry.name, block, descriptor });
  const descriptors = entry.descriptors.slice(0, 3);
  const threshold = Math.min(Math.max(Number(state.threshold) || 0, 0), 1);
  const set = (name) => (value) => go({ view: "channels", entry: entry.name, [name]: value });
  const largestPlace = element("div");
  const maps = element("div", { class: "grid" });
  maps.style.setProperty("--columns", descriptors.length);
  const chosen = element("input", { type: "number", min: 0, max: entry.blocks.find((each) => each.block === block).channels - 1, onchange: (event) => set("channel")(event.target.value) });
  mount(
    element("div", { class: "controls" },
      menu,
      select("Block", blocks.map((each) => [each, each]), block, set("block")),
      select("Image", images.map((each) => [each.id, each.id.startsWith("upload/") ? each.name : each.id]), image, set("source")),
      element("label", {}, "Channel", chosen),
      element("label", {}, "Foreground threshold", element("input", { type: "range", min: 0, max: 1, step: 0.05, value: threshold, onchange: (event) => set("threshold")(event.target.value) })),
    ),
    element("div", { class: "stage" }, largestPlace, maps),
  );
  const { largest } = await source.channels(shown("original"), image);
  const number = /^\d+$/.test(state.channel ?? "") ? Number(state.channel) : largest[0].channel;
  chosen.value = number;
  largestPlace.append(...table(largest, number, set("channel")));
  const picture = await loadImage(source.pictureAddress(entry.name, image));
  for (const descriptor of descriptors) maps.append(await channelFigure(picture, shown(descriptor), image, number));
  for (const descriptor of descriptors) maps.append(await coloursFigure(picture, shown(descriptor), image, threshold));
}

function table(largest, number, choose) {
  const rows = largest.map((each) =>
    element("tr", { "aria-selected": String(each.channel === number) },
      element("td", {}, element("button", { type: "button", onclick: () => choose(each.channel) }, String(each.channel))),
      element("td", {}, String(Number(each.magnitude.toPrecision(3)))),
      element("td", {}, `${each.ratio.toFixed(1)}×`),
      element("td", {}, each.massive ? "massive" : ""),
    ),
  );
  return [
    element("h2", {}, "Largest channels"),
    element("table", {}, element("thead", {}, element("tr", {}, ...["channel", "mean magnitude", "of the median", ""].map((name) => element("th", { scope: "col" }, name)))), element("tbody", {}, ...rows)),
    element("p", { class: "legend" }, "Values before AdaLN. The maps show the chosen channel before and after AdaLN. The colours are the first three principal components of the descriptors."),
  ];
}

async function channelFigure(picture, view, image, number) {
  const canvas = element("canvas", { role: "img", "aria-label": `Channel ${number} of ${image}, ${view.descriptor}` });
  const { grid: [rows, columns], values } = await source.channel(view, image, number);
  const { canvas: map, low, high } = colourMap(values, rows, columns);
  const context = drawPicture(canvas, picture);
  context.globalAlpha = HEAT;
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
  const range = [low, high].map((value) => Number(value.toPrecision(2))).join(" to ");
  return element("figure", {}, canvas, element("figcaption", {}, element("strong", {}, view.descriptor), element("span", {}, range), saveButton(canvas, `${image}-channel-${number}-${view.descriptor}`)));
}

// Descriptors as colours. Tokens whose first component is below the threshold, such as the background, are hidden.
async function coloursFigure(picture, view, image, threshold) {
  const canvas = element("canvas", { role: "img", "aria-label": `Principal components of ${image}, ${view.descriptor}` });
  const colours = await loadImage(source.coloursAddress(view, image));
  const small = new OffscreenCanvas(colours.naturalWidth, colours.naturalHeight);
  const context = small.getContext("2d", { willReadFrequently: true });
  context.drawImage(colours, 0, 0);
  const tokens = context.getImageData(0, 0, small.width, small.height);
  for (let i = 0; i < tokens.data.length; i += 4) if (tokens.data[i] < 255 * threshold) tokens.data[i + 3] = 0;
  context.putImageData(tokens, 0, 0);
  drawPicture(canvas, picture).drawImage(small, 0, 0, canvas.width, canvas.height);
  return element("figure", {}, canvas, element("figcaption", {}, element("strong", {}, `colours, ${view.descriptor}`), element("span"), saveButton(canvas, `${image}-colours-${view.descriptor}`)));
}
