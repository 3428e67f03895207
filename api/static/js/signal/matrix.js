// Matrices as the server sends them: little-endian float16, row-major.

/** @import { Numbers, PackedArray } from "../server/types.js" */

const halves = new Float32Array(65_536); // float16 bits -> value
for (let bits = 0; bits < 65_536; bits += 1) {
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1_024;
  const size =
    exponent === 0
      ? fraction * 2 ** -14
      : exponent === 31
        ? fraction
          ? NaN
          : Infinity
        : (1 + fraction) * 2 ** (exponent - 15);
  halves[bits] = bits & 0x8000 ? -size : size;
}

/**
 * @typedef {object} Statistics
 * @property {number} min
 * @property {number} max
 * @property {number} mean
 * @property {number} sparsity  share of values that are exactly zero
 */

/** `rows` × `columns` numbers; row 0 is the lowest frequency, column 0 the beginning. */
export class Matrix {
  /** @type {Statistics | null} */
  #statistics = null;

  /**
   * @param {number} rows
   * @param {number} columns
   * @param {Float32Array} values  rows × columns, row-major
   */
  constructor(rows, columns, values) {
    this.rows = rows;
    this.columns = columns;
    this.values = values;
  }

  /**
   * @param {number} row
   * @param {number} column
   */
  at(row, column) {
    return this.values[row * this.columns + column];
  }

  /** Computed once. */
  get statistics() {
    if (!this.#statistics) {
      let min = Infinity,
        max = -Infinity,
        sum = 0,
        zeros = 0;
      for (const value of this.values) {
        if (value < min) min = value;
        if (value > max) max = value;
        if (value === 0) zeros += 1;
        sum += value;
      }
      this.#statistics = { min, max, mean: sum / this.values.length, sparsity: zeros / this.values.length };
    }
    return this.#statistics;
  }
}

/**
 * @param {PackedArray} packed
 * @returns {Float32Array}
 */
export function floats({ data }) {
  const bits = new Uint16Array(data.slice().buffer); // a copy: the bytes may lie at an odd offset
  const values = new Float32Array(bits.length); // filled by a loop: from() with a function takes twenty times as long
  for (let i = 0; i < bits.length; i += 1) values[i] = halves[bits[i]];
  return values;
}

/**
 * Numbers that are sent as float32.
 * @param {PackedArray} packed
 * @returns {Numbers}
 */
export const numbers = ({ shape, data }) => ({ shape, values: new Float32Array(data.slice().buffer) });

/**
 * @param {PackedArray} packed  of shape [rows, columns]
 * @returns {Matrix}
 */
export function matrix(packed) {
  const [rows, columns] = packed.shape;
  return new Matrix(rows, columns, floats(packed));
}

/**
 * One matrix for each channel; they share one buffer.
 * @param {PackedArray} packed  of shape [channels, rows, columns]
 * @returns {Matrix[]}
 */
export function channels(packed) {
  const [count, rows, columns] = packed.shape;
  const all = floats(packed);
  const size = rows * columns;
  return Array.from({ length: count }, (_, i) => new Matrix(rows, columns, all.subarray(i * size, (i + 1) * size)));
}

/**
 * The mean of matrices of one size, cell by cell.
 * @param {Matrix[]} matrices
 */
export function meanMatrix(matrices) {
  const [{ rows, columns }] = matrices;
  const values = new Float32Array(rows * columns);
  for (const { values: one } of matrices)
    for (let i = 0; i < values.length; i += 1) values[i] += one[i] / matrices.length;
  return new Matrix(rows, columns, values);
}

/**
 * The smallest and the largest value of several matrices.
 * @param {Matrix[]} matrices
 */
export function valueRange(matrices) {
  const all = matrices.map(({ statistics }) => statistics);
  return { min: Math.min(...all.map(({ min }) => min)), max: Math.max(...all.map(({ max }) => max)) };
}
