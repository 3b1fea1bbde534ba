// Similarity maps, computed in the browser as the library computes them.

// Returns the unit descriptor at a point (x, y) in pixels: the bilinear interpolation between token centres.
export function descriptorAt(tokens, x, y) {
  const { vectors, lengths, channels, rows, columns, width, height } = tokens;
  const place = (value, size, count) => Math.min(Math.max(((value + 0.5) * count) / size - 0.5, 0), count - 1);
  const column = place(x, width, columns);
  const row = place(y, height, rows);
  const left = Math.floor(column);
  const top = Math.floor(row);
  const query = new Float32Array(channels);
  for (const [r, rowShare] of [[top, top + 1 - row], [Math.min(top + 1, rows - 1), row - top]]) {
    for (const [c, columnShare] of [[left, left + 1 - column], [Math.min(left + 1, columns - 1), column - left]]) {
      const token = r * columns + c;
      const weight = rowShare * columnShare * lengths[token];
      if (weight === 0) continue;
      const start = token * channels;
      for (let i = 0; i < channels; i++) query[i] += weight * vectors[start + i];
    }
  }
  let square = 0;
  for (let i = 0; i < channels; i++) square += query[i] * query[i];
  const scale = 1 / Math.max(Math.sqrt(square), 1e-12);
  for (let i = 0; i < channels; i++) query[i] *= scale;
  return query;
}

// Returns the cosine similarity of a unit descriptor to every token, [rows * columns].
export function similarityMap(query, tokens) {
  const { vectors, channels, rows, columns } = tokens;
  const result = new Float32Array(rows * columns);
  const last = vectors.length - channels;
  // Four tokens at once, so that each number of the query is read once for all. Results after the last token are dropped.
  for (let token = 0; token < result.length; token += 4) {
    const first = token * channels;
    const second = Math.min(first + channels, last);
    const third = Math.min(second + channels, last);
    const fourth = Math.min(third + channels, last);
    let a = 0, b = 0, c = 0, d = 0;
    for (let i = 0; i < channels; i++) {
      const value = query[i];
      a += value * vectors[first + i];
      b += value * vectors[second + i];
      c += value * vectors[third + i];
      d += value * vectors[fourth + i];
    }
    result[token] = a;
    result[token + 1] = b;
    result[token + 2] = c;
    result[token + 3] = d;
  }
  return result;
}

const NEAR = 8; // tokens whose surroundings are searched

// Returns the pixel whose interpolated descriptor is most similar to a unit descriptor, near the most similar tokens.
export function matchPixel(query, tokens) {
  const { rows, columns, width, height } = tokens;
  const map = similarityMap(query, tokens);
  const best = [...map.keys()].sort((a, b) => map[b] - map[a]).slice(0, NEAR);
  const [stepX, stepY] = [width / columns, height / rows];
  const seen = new Set();
  let found = { match: [0, 0], similarity: -2 };
  for (const token of best) {
    const x = ((token % columns) + 0.5) * stepX - 0.5;
    const y = (Math.floor(token / columns) + 0.5) * stepY - 0.5;
    for (let py = Math.max(0, Math.ceil(y - stepY)); py <= Math.min(height - 1, y + stepY); py++) {
      for (let px = Math.max(0, Math.ceil(x - stepX)); px <= Math.min(width - 1, x + stepX); px++) {
        const key = py * width + px;
        if (seen.has(key)) continue;
        seen.add(key);
        const there = descriptorAt(tokens, px, py);
        let similarity = 0;
        for (let i = 0; i < query.length; i++) similarity += query[i] * there[i];
        if (similarity > found.similarity) found = { match: [px, py], similarity };
      }
    }
  }
  return found;
}

// Viridis at nine points; colours between them are interpolated.
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37],
];
const COLOURS = new Uint8ClampedArray(3 * 256);
for (let i = 0; i < 256; i++) {
  const place = (i / 255) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  for (let k = 0; k < 3; k++) COLOURS[3 * i + k] = VIRIDIS[low][k] + (place - low) * (VIRIDIS[low + 1][k] - VIRIDIS[low][k]);
}

// Returns a canvas with a pixel per token, from the smallest value (dark) to the largest (yellow).
export function colourMap(values, rows, columns) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < values.length; i++) {
    const colour = 3 * Math.round((values[i] - low) * scale);
    image.data[4 * i] = COLOURS[colour];
    image.data[4 * i + 1] = COLOURS[colour + 1];
    image.data[4 * i + 2] = COLOURS[colour + 2];
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return { canvas, low, high };
}
