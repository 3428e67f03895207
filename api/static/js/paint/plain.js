// The painter without a graphics card: the same picture from the processor, first along the columns, then along the rows.

import { table } from "./colours.js";
import { pyramid, reading } from "./pyramid.js";

const kept = new WeakMap(); // Matrix -> pyramid

export function forget(matrix) {
  kept.delete(matrix);
}

/** As `paint` in painter.js. */
export function paint(target, matrix, { colours, min, max, region, smooth }) {
  const { width, height } = target;
  if (!kept.has(matrix)) kept.set(matrix, pyramid(matrix));
  const cells = kept.get(matrix);
  const read = reading(cells, region, width, height);
  const { columns, bytes } = cells.levels[read.level];
  const xs = places(width, read.left, read.across, columns, read.end, smooth, 2);
  const ys = places(height, read.bottom, read.up, cells.rows, cells.rows, smooth, 8);
  const lines = new Map(); // row -> its values at every pixel across, kept while rows above need them
  const line = (row) => {
    if (!lines.has(row)) lines.set(row, along(bytes, row * columns, xs, width));
    return lines.get(row);
  };

  const by = 255 / (max > min ? max - min : 1);
  const [scale, shift] = [(cells.span * by) / 255, (cells.min - min) * by];
  const known = new Uint32Array(table(colours).slice().buffer);
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const sums = new Float32Array(width);
  for (let y = ys.from; y < ys.to; y += 1) {
    sums.fill(shift + 0.5); // half: what follows rounds down
    for (let tap = 0; tap < ys.taps; tap += 1) {
      const share = scale * ys.shares[y * ys.taps + tap];
      if (share === 0) continue;
      const values = line(ys.cells[y * ys.taps + tap]);
      for (let x = xs.from; x < xs.to; x += 1) sums[x] += share * values[x];
    }
    const start = (height - 1 - y) * width;
    for (let x = xs.from; x < xs.to; x += 1) {
      const sum = sums[x];
      pixels[start + x] = known[sum > 255 ? 255 : sum > 0 ? sum | 0 : 0];
    }
  }
  target.getContext("2d").putImageData(image, 0, 0);
}

/** One row of a level at every pixel across. */
function along(bytes, start, { from, to, taps, cells, shares }, width) {
  const values = new Float32Array(width);
  for (let x = from; x < to; x += 1) {
    let sum = 0;
    for (let at = x * taps; at < (x + 1) * taps; at += 1) sum += shares[at] * bytes[start + cells[at]];
    values[x] = sum;
  }
  return values;
}

/**
 * For every pixel of one direction the cells that it is made of and their shares, `taps` each; pixels outside of
 * `from` to `to` are beyond the matrix. `origin` and `step` are in cells, which end at `end`.
 */
function places(count, origin, step, size, end, smooth, most) {
  const between = smooth || step > 1;
  const reads = step > 1 ? Math.min(Math.ceil(step), most) : 1;
  const taps = between ? 2 * reads : 1;
  const cells = new Int32Array(count * taps);
  const shares = new Float32Array(count * taps);
  const inside = (cell) => Math.min(Math.max(cell, 0), size - 1);
  let [from, to] = [count, 0];
  for (let i = 0; i < count; i += 1) {
    const middle = origin + (i + 0.5) * step;
    if (middle < 0 || middle > end) continue;
    from = Math.min(from, i);
    to = i + 1;
    for (let read = 0; read < reads; read += 1) {
      const at = middle + step * ((read + 0.5) / reads - 0.5);
      const low = Math.floor(between ? at - 0.5 : at);
      const share = between ? at - 0.5 - low : 0;
      const tap = i * taps + (between ? 2 * read : 0);
      cells[tap] = inside(low);
      shares[tap] = (1 - share) / reads;
      if (!between) continue;
      cells[tap + 1] = inside(low + 1);
      shares[tap + 1] = share / reads;
    }
  }
  return { from, to, taps, cells, shares };
}
