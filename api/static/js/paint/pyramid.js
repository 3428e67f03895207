// A matrix as the painters store it: 8 bits a value, and again with the columns halved, and halved again (a mipmap).
// Only columns are halved: ten minutes are thirty thousand columns and still no more than a hundred rows or so.

/** @import { MatrixRegion } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */

/**
 * @typedef {{columns: number, bytes: Uint8Array<ArrayBuffer>}} Level
 *
 * @typedef {object} Pyramid
 * @property {number} rows
 * @property {number} min       a value is min + span × byte / 255
 * @property {number} span
 * @property {Level[]} levels   each the mean of the one before
 */

const NARROW = 64; // columns: a level that is no wider is not halved

/**
 * @param {Matrix} matrix
 * @returns {Pyramid}
 */
export function createPyramid(matrix) {
  const { min, max } = matrix.statistics;
  const span = max > min ? max - min : 1;
  const { values } = matrix;
  const bytes = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i += 1) bytes[i] = (255 * (values[i] - min)) / span + 0.5;
  let level = { columns: matrix.columns, bytes };
  const levels = [level];
  while (level.columns > NARROW) levels.push((level = halve(level, matrix.rows)));
  return { rows: matrix.rows, min, span, levels };
}

/**
 * @param {Level} level
 * @param {number} rows
 * @returns {Level}
 */
function halve({ columns, bytes }, rows) {
  const half = Math.ceil(columns / 2);
  const means = new Uint8Array(half * rows);
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < half; column += 1) {
      const at = row * columns + 2 * column;
      const next = 2 * column + 1 < columns ? at + 1 : at;
      means[row * half + column] = (bytes[at] + bytes[next] + 1) >> 1;
    }
  }
  return { columns: half, bytes: means };
}

/**
 * Which level shows a region on width × height pixels, and where the region lies in it, in columns and rows of that level.
 * @param {{rows: number, levels: {columns: number}[]}} pyramid
 * @param {MatrixRegion} region
 * @param {number} width
 * @param {number} height
 */
export function locate({ rows, levels }, { left, right, bottom, top }, width, height) {
  const visible = (right - left) * levels[0].columns;
  const level = Math.min(Math.max(Math.floor(Math.log2(visible / width)), 0), levels.length - 1);
  const scale = levels[0].columns / 2 ** level;
  return {
    level,
    left: left * scale,
    bottom: bottom * rows,
    across: ((right - left) * scale) / width, // columns that a pixel covers
    up: ((top - bottom) * rows) / height, // rows that a pixel covers
    end: scale, // the last column's right edge: half a column short of the level's own where there was an odd one
  };
}
