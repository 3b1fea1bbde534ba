// Images of the user: dropped, pasted or chosen. The server computes their features.

import { element } from "./elements.js";
import { follow } from "./jobs.js";
import * as source from "./source.js";

// `entry` returns the name of the features to compute. `limit` is the largest size of a file in bytes.
// `onready` is called with the entry and the id of the image, and `onerror` with a message.
export function acceptImages({ entry, limit, onready, onerror }) {
  async function add(file) {
    const features = entry();
    try {
      if (file.size > limit) throw new Error(`${file.name}: larger than ${Math.floor(limit / 2 ** 20)} MiB. Scale the image down.`);
      const { job } = await source.upload({ entry: features, file });
      const result = await follow(job, document.getElementById("work"), { text: `Computing ${features} of ${file.name}`, unit: "noise samples", start: "loading the model" });
      if (result) onready(features, result.image);
    } catch (error) {
      onerror(error.message);
    }
  }
  const input = element("input", { type: "file", accept: "image/*", onchange: () => input.files[0] && add(input.files[0]) });
  document.getElementById("add").addEventListener("click", () => input.click());
  const files = (event) => [...((event.dataTransfer ?? event.clipboardData)?.files ?? [])];
  const frame = (on) => document.body.classList.toggle("dropping", on);
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    frame(true);
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget === null && frame(false));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    frame(false);
    if (files(event).length) add(files(event)[0]);
  });
  window.addEventListener("paste", (event) => files(event).length && add(files(event)[0]));
}
