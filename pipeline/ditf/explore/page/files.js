// The data of an exported page: files beside it. What the server computes is computed here from reduced descriptors.

import { descriptorAt, matchPixel } from "./similarity.js";

const read = async (path, parse = "json") => {
  const response = await fetch(`data/${path}`);
  if (!response.ok) throw new Error(`data/${path}: not found. Export the page again.`);
  return response[parse]();
};

const known = new Map(); // promises by path
function once(path, parse) {
  if (!known.has(path)) known.set(path, read(path, parse));
  return known.get(path);
}

export const project = () => once("project.json");

export async function images() {
  return once("images.json");
}

export async function pairs({ descriptor, source, target, category, difficulty, correct, sort = "error", descending = true, other, offset = 0, limit = 24 }) {
  const { pairs: all } = await once(`pairs-${descriptor.replace("+", "-")}.json`);
  const [key, value] = (difficulty ?? "").split("=");
  const amount = (pair) => (pair.correct === 1 ? "all" : pair.correct === 0 ? "none" : "some");
  let chosen = all.filter((pair) =>
    (!source || pair.source === source) && (!target || pair.target === target) && (!category || pair.category === category) &&
    (!difficulty || String(pair.difficulty[key]) === value) && (!correct || amount(pair) === correct),
  );
  if (other) {
    const { pairs: others } = await once(`pairs-${other.split("/").at(-1).replace("+", "-")}.json`);
    const named = new Map(others.map((pair) => [pair.pair, pair]));
    chosen = chosen.map((pair) => ({ ...pair, other: named.get(pair.pair), difference: named.get(pair.pair).error - pair.error }));
  }
  chosen = chosen.toSorted((a, b) => (descending ? b[sort] - a[sort] : a[sort] - b[sort]));
  return {
    total: chosen.length,
    categories: [...new Set(all.map((pair) => pair.category))].sort(),
    difficulties: [...new Set(all.flatMap((pair) => Object.entries(pair.difficulty).map((part) => part.join("="))))].sort(),
    pairs: chosen.slice(offset, offset + limit),
  };
}

export async function match(view, source, target, points) {
  const [first, second] = await Promise.all([tokens(view, source), tokens(view, target)]);
  return { matches: points.map((point) => ({ point, ...matchPixel(descriptorAt(first, ...point), second) })) };
}

// Eight-bit numbers [n, channels] with a scale for each channel, and the lengths of the descriptors.
export async function tokens(view, image) {
  const { descriptors } = await images();
  const file = descriptors[image][`${view.block}/${view.descriptor}`];
  const data = await once(file.path, "arrayBuffer");
  const { rows, columns, width, height, channels } = file;
  const n = rows * columns;
  const scales = new Float32Array(data, 0, channels);
  const lengths = new Float32Array(data, 4 * channels, n);
  const small = new Int8Array(data, 4 * (channels + n), n * channels);
  const vectors = new Float32Array(n * channels);
  for (let i = 0; i < vectors.length; i++) vectors[i] = small[i] * scales[i % channels];
  return { vectors, lengths, channels, rows, columns, width, height };
}

let pictures = {};
export function pictureAddress(entry, image) {
  return `data/${pictures[image]}`;
}
images().then((listing) => (pictures = Object.fromEntries(listing.images.map((each) => [each.id, each.picture]))));
