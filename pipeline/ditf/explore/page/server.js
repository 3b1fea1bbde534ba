// The data of the page, from the explorer's server.

const TOKEN_BYTES = 768 * 2 ** 20; // of decoded tokens that are kept
const PICTURE_SIDE = 1024;

async function ask(path, parameters = {}, options = {}) {
  const query = new URLSearchParams(parameters);
  let response;
  try {
    response = await fetch(`api/${path}${query.size ? `?${query}` : ""}`, options);
  } catch {
    throw new Error("The explorer's server does not answer. Start `ditf explore` again.");
  }
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({ error: response.statusText }));
    throw Object.assign(new Error(error), { status: response.status });
  }
  return response;
}

const asJson = async (response) => (await response).json();

export const project = () => asJson(ask("project"));
export const images = (entry, text = "", category = "") => asJson(ask("images", { entry, text, category }));
export const pairs = (parameters) => asJson(ask("pairs", parameters));
export const channels = (view, image) => asJson(ask("channels", { entry: view.entry, block: view.block, image }));
export const channel = (view, image, number) => asJson(ask(`channels/${number}`, { ...view, image }));
export const search = (body) => asJson(send("search", body));
export const match = (view, source, target, points) => asJson(send("match", { ...view, source, target, points }));

export const videos = (task, descriptor) => asJson(ask("videos", { task, descriptor }));
export const video = (sequence, task, descriptor) => asJson(ask(`videos/${encodeURIComponent(sequence)}`, { task, descriptor }));
export const propagate = (fields) => asJson(ask("propagations", {}, { method: "POST", body: form(fields) }));
export const upload = (fields) => asJson(ask("uploads", {}, { method: "POST", body: form(fields) }));
export const job = (id) => asJson(ask(`jobs/${id}`));
export const cancelJob = (id) => asJson(ask(`jobs/${id}`, {}, { method: "DELETE" }));

export function maskAddress(sequence, frame, task, descriptor, kind) {
  return `api/videos/${encodeURIComponent(sequence)}/masks/${encodeURIComponent(frame)}?${new URLSearchParams({ task, descriptor, kind })}`;
}

export const maskOfJobAddress = (id, frame) => `api/jobs/${id}/masks/${encodeURIComponent(frame)}`;
export const masksOfJobAddress = (id) => `api/jobs/${id}/result`;

function form(fields) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== "" && value !== null && value !== undefined) made.append(name, value);
  }
  return made;
}

function send(path, body) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, {}, { method: "POST", headers, body: JSON.stringify(body) });
}

export function pictureAddress(entry, image, side = PICTURE_SIDE) {
  const path = image.split("/").map(encodeURIComponent).join("/");
  return `api/images/${path}?${new URLSearchParams({ entry, side })}`;
}

export function coloursAddress(view, image) {
  return `api/colours?${new URLSearchParams({ ...view, image })}`;
}

// Half-precision numbers by their bits.
const HALF = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
  HALF[bits] = exponent === 31 ? NaN : bits & 0x8000 ? -size : size;
}

const kept = new Map(); // promises of tokens by their address; the least recently used come first
let keptBytes = 0;

// Returns {vectors: unit descriptors [n * channels], lengths [n], channels, rows, columns, width, height}.
export function tokens(view, image, revision) {
  const key = JSON.stringify([view.entry, view.block, view.descriptor, image, revision]);
  const known = kept.get(key);
  if (known) {
    kept.delete(key);
    kept.set(key, known);
    return known;
  }
  const loading = load(view, image, revision).then((result) => {
    keptBytes += result.vectors.byteLength;
    for (const [oldest, value] of kept) {
      if (keptBytes <= TOKEN_BYTES || oldest === key) break;
      kept.delete(oldest);
      value.then((old) => (keptBytes -= old.vectors.byteLength));
    }
    return result;
  });
  loading.catch(() => kept.delete(key));
  kept.set(key, loading);
  return loading;
}

async function load(view, image, revision) {
  const response = await ask("tokens", { ...view, image, revision });
  const [rows, columns] = response.headers.get("X-Grid").split(",").map(Number);
  const [width, height] = response.headers.get("X-Size").split(",").map(Number);
  const data = await response.arrayBuffer();
  const n = rows * columns;
  const channels = (data.byteLength - 4 * n) / (2 * n);
  const halves = new Uint16Array(data, 0, n * channels);
  const vectors = new Float32Array(n * channels);
  for (let i = 0; i < vectors.length; i++) vectors[i] = HALF[halves[i]];
  const lengths = new Float32Array(data.slice(2 * n * channels));
  return { vectors, lengths, channels, rows, columns, width, height };
}
