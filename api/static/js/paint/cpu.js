// The painter without a GPU: resamples on the CPU, first along the columns, then along the rows.

import { context2d } from "../view/dom.js";
import { colourTable } from "./colormaps.js";
import { createPyramid, locate } from "./pyramid.js";

/** @import { PaintOptions } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Pyramid } from "./pyramid.js" */

/**
 * The weighted cells of every pixel in one direction, `taps` for each pixel; pixels outside of `from` to `to` lie beyond the
 * matrix and are transparent.
 * @typedef {{from: number, to: number, taps: number, cells: Int32Array, weights: Float32Array}} Filter
 */

/** @type {WeakMap<Matrix, Pyramid>} */
const pyramids = new WeakMap();

/** @param {Matrix} matrix */
function pyramidOf(matrix) {
  const cached = pyramids.get(matrix);
  if (cached) return cached;
  const pyramid = createPyramid(matrix);
  pyramids.set(matrix, pyramid);
  return pyramid;
}

/**
 * As `paint` in painter.js.
 * @param {HTMLCanvasElement} canvas
 * @param {Matrix} matrix
 * @param {PaintOptions} options
 */
export function paint(canvas, matrix, { colours, min, max, region, smooth }) {
  const { width, height } = canvas;
  const pyramid = pyramidOf(matrix);
  const at = locate(pyramid, region, width, height);
  const { columns, bytes } = pyramid.levels[at.level];
  const xs = createFilter(width, at.left, at.across, columns, at.end, smooth, 2);
  const ys = createFilter(height, at.bottom, at.up, pyramid.rows, pyramid.rows, smooth, 8);
  /** Row -> its values at every pixel across. @type {Map<number, Float32Array>} */
  const lines = new Map();
  /** @param {number} row */
  const line = (row) => {
    const cached = lines.get(row);
    if (cached) return cached;
    const values = filterRow(bytes, row * columns, xs, width);
    lines.set(row, values);
    return values;
  };

  const factor = 255 / (max > min ? max - min : 1);
  const [scale, shift] = [(pyramid.span * factor) / 255, (pyramid.min - min) * factor];
  const table = new Uint32Array(colourTable(colours).slice().buffer);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const sums = new Float32Array(width);
  for (let y = ys.from; y < ys.to; y += 1) {
    sums.fill(shift + 0.5); // half: `| 0` below rounds down
    for (let tap = 0; tap < ys.taps; tap += 1) {
      const weight = scale * ys.weights[y * ys.taps + tap];
      if (weight === 0) continue;
      const values = line(ys.cells[y * ys.taps + tap]);
      for (let x = xs.from; x < xs.to; x += 1) sums[x] += weight * values[x];
    }
    const start = (height - 1 - y) * width;
    for (let x = xs.from; x < xs.to; x += 1) {
      const sum = sums[x];
      pixels[start + x] = table[sum > 255 ? 255 : sum > 0 ? sum | 0 : 0];
    }
  }
  context2d(canvas).putImageData(image, 0, 0);
}

/**
 * One row of a level at every pixel across.
 * @param {Uint8Array} bytes
 * @param {number} start  index of the row's first value
 * @param {Filter} filter
 * @param {number} width
 */
function filterRow(bytes, start, { from, to, taps, cells, weights }, width) {
  const values = new Float32Array(width);
  for (let x = from; x < to; x += 1) {
    let sum = 0;
    for (let at = x * taps; at < (x + 1) * taps; at += 1) sum += weights[at] * bytes[start + cells[at]];
    values[x] = sum;
  }
  return values;
}

/**
 * The filter of one direction. Lengths are in cells.
 * @param {number} count  pixels
 * @param {number} origin  of the first pixel's edge
 * @param {number} step  cells that a pixel covers
 * @param {number} size  cells
 * @param {number} end  of the last cell's edge
 * @param {boolean} smooth
 * @param {number} most  samples of a pixel
 * @returns {Filter}
 */
function createFilter(count, origin, step, size, end, smooth, most) {
  const interpolate = smooth || step > 1;
  const samples = step > 1 ? Math.min(Math.ceil(step), most) : 1;
  const taps = interpolate ? 2 * samples : 1;
  const cells = new Int32Array(count * taps);
  const weights = new Float32Array(count * taps);
  /** @param {number} cell */
  const clamp = (cell) => Math.min(Math.max(cell, 0), size - 1);
  let [from, to] = [count, 0];
  for (let i = 0; i < count; i += 1) {
    const middle = origin + (i + 0.5) * step;
    if (middle < 0 || middle > end) continue;
    from = Math.min(from, i);
    to = i + 1;
    for (let sample = 0; sample < samples; sample += 1) {
      const at = middle + step * ((sample + 0.5) / samples - 0.5);
      const low = Math.floor(interpolate ? at - 0.5 : at);
      const share = interpolate ? at - 0.5 - low : 0;
      const tap = i * taps + (interpolate ? 2 * sample : 0);
      cells[tap] = clamp(low);
      weights[tap] = (1 - share) / samples;
      if (!interpolate) continue;
      cells[tap + 1] = clamp(low + 1);
      weights[tap + 1] = share / samples;
    }
  }
  return { from, to, taps, cells, weights };
}
