// Masks of videos: reading them, drawing them over frames, and writing them as PNG.

import { loadImage } from "./elements.js";

const VOID = 255;
const FILL = 105; // opacity of an object, of 255
// Colours that colour-blind people can tell apart.
export const COLOURS = [[230, 159, 0], [86, 180, 233], [240, 228, 66], [204, 121, 167], [0, 158, 115], [213, 94, 0], [0, 114, 178]];

export const colourOf = (object) => COLOURS[(object - 1) % COLOURS.length];

// Object numbers by the colours of the DAVIS palette, whose bits are interleaved.
const NUMBERS = new Map();
for (let number = 0; number < 256; number++) {
  const colour = [0, 0, 0];
  for (let bits = number, place = 7; bits; bits >>= 3, place--) {
    for (let k = 0; k < 3; k++) colour[k] |= ((bits >> k) & 1) << place;
  }
  NUMBERS.set((colour[0] << 16) | (colour[1] << 8) | colour[2], number);
}

// Returns {values: object of each pixel, width, height}. Colours outside the palette of DAVIS are numbered from 1.
export async function readMask(address) {
  const picture = await loadImage(address);
  const { naturalWidth: width, naturalHeight: height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const colours = new Uint32Array(width * height);
  for (let i = 0; i < colours.length; i++) colours[i] = (data[4 * i] << 16) | (data[4 * i + 1] << 8) | data[4 * i + 2];
  const distinct = [...new Set(colours)].sort((a, b) => a - b);
  const numbers = distinct.every((colour) => NUMBERS.has(colour))
    ? NUMBERS
    : new Map(distinct.filter((colour) => colour !== 0).map((colour, i) => [colour, i + 1]));
  return { values: Uint8Array.from(colours, (colour) => numbers.get(colour) ?? 0), width, height };
}

// Returns a canvas with the objects in colour, or with dashed white outlines only.
export function overlay({ values, width, height }, outlined = false) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const edge = Math.max(1, Math.round(width / 400));
  const dash = 4 * edge;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const object = values[i];
      if (object === 0 || object === VOID) continue;
      const inside =
        (x < edge || values[i - edge] === object) && (x >= width - edge || values[i + edge] === object) &&
        (y < edge || values[i - edge * width] === object) && (y >= height - edge || values[i + edge * width] === object);
      if (outlined) {
        if (!inside) pixels[i] = ((x + y) / dash) & 1 ? 0xff000000 : 0xffffffff;
        continue;
      }
      const [red, green, blue] = colourOf(object);
      pixels[i] = (((inside ? FILL : 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

// Returns a grey PNG whose values are the numbers of the objects. A canvas can only write colours.
export async function encodeMask({ values, width, height }) {
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(values.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const packed = await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits per value; the other fields stay 0: grey, without interlacing
  const signature = new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]);
  const parts = [signature, chunk("IHDR", header.buffer), chunk("IDAT", packed), chunk("IEND", new ArrayBuffer(0))];
  return new Blob(parts, { type: "image/png" });
}

function chunk(name, data) {
  const bytes = new Uint8Array(data.byteLength + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.byteLength);
  for (let i = 0; i < 4; i++) bytes[4 + i] = name.charCodeAt(i);
  bytes.set(new Uint8Array(data), 8);
  view.setUint32(bytes.length - 4, checksum(bytes.subarray(4, bytes.length - 4)));
  return bytes;
}

function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return ~value >>> 0;
}
