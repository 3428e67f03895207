// The difference of two matrices of the same axes, cell by cell.

import { Matrix } from "../signal/matrix.js";

/** @import { ModelCard } from "../server/types.js" */

/**
 * `right` minus `left` from the beginning to the end of the shorter one; null where the rows are not the same.
 * @param {Matrix} left
 * @param {Matrix} right
 */
export function difference(left, right) {
  if (left.rows !== right.rows) return null;
  const columns = Math.min(left.columns, right.columns);
  const values = new Float32Array(left.rows * columns);
  for (let row = 0; row < left.rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      values[row * columns + column] = right.at(row, column) - left.at(row, column);
    }
  }
  return new Matrix(left.rows, columns, values);
}

/**
 * Whether the spectrograms of two models have the same axes and levels.
 * @param {ModelCard} left
 * @param {ModelCard} right
 */
export function sameAxes(left, right) {
  /** @type {(card: ModelCard) => unknown[]} */
  const axes = ({ sample_rate, frontend }) => {
    const { hop, n_mels, f_min, f_max, n_fft, win_length = null, center = true } = frontend;
    const { mel_filters: filters = "htk", preemphasis = 0 } = frontend;
    return [sample_rate, hop, n_mels, f_min, f_max, n_fft, win_length, center, filters, preemphasis];
  };
  return String(axes(left)) === String(axes(right));
}
