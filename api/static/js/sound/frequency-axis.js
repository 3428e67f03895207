// The frequency axis of a spectrogram: mel, linear or logarithmic, and matrices of mel bands on such an axis.

import { Matrix } from "../signal/matrix.js";
import { melScale, SLANEY, toHertz, toMel } from "../signal/mel.js";
import { settings } from "../state/settings.js";

/** @import { Frontend, PlacedSpectrogram } from "../server/types.js" */

/** @typedef {keyof typeof SCALES} ScaleName */

/** From Hz to a number that is proportional to the height, and back. */
const SCALES = {
  mel: { from: toMel, to: toHertz },
  linear: { from: (/** @type {number} */ hertz) => hertz, to: (/** @type {number} */ hertz) => hertz },
  log: { from: Math.log2, to: (/** @type {number} */ octaves) => 2 ** octaves },
  slaney: SLANEY, // of the bands of some models
};

/** Those that a visitor can choose. @type {ScaleName[]} */
export const SCALE_NAMES = ["mel", "linear", "log"];

/** The scale that the visitor has chosen. @returns {ScaleName} */
export const scaleName = () => SCALE_NAMES.find((name) => name === settings.get("scale")) ?? "mel";

const LOWEST = 20; // Hz, of a logarithmic axis, which has no 0
const BEYOND = 1.1; // a sound whose frequencies reach higher than the model's by this factor has an axis up to its own
const ROWS = 384; // of a matrix that is computed for another axis

export class FrequencyAxis {
  #bottom;
  #top;

  /**
   * @param {ScaleName} scale
   * @param {number} low  Hz
   * @param {number} high  Hz
   */
  constructor(scale, low, high) {
    this.scale = scale;
    this.low = low;
    this.high = high;
    this.#bottom = SCALES[scale].from(low);
    this.#top = SCALES[scale].from(high);
  }

  /**
   * The frequency in Hz at a share of the height.
   * @param {number} share  0 at the bottom
   */
  frequencyAt(share) {
    return SCALES[this.scale].to(this.#bottom + share * (this.#top - this.#bottom));
  }

  /**
   * The share of the height at a frequency; below 0 or above 1 outside of the axis.
   * @param {number} frequency  Hz
   */
  shareOf(frequency) {
    return (SCALES[this.scale].from(frequency) - this.#bottom) / (this.#top - this.#bottom);
  }

  /** @param {FrequencyAxis} other */
  equals({ scale, low, high }) {
    return scale === this.scale && low === this.low && high === this.high;
  }
}

/**
 * The axis of the mel bands of a front end. Bands overlap: the centre of the lowest is not its edge.
 * @param {Frontend} frontend
 */
export function bandAxis(frontend) {
  const { f_min, f_max, n_mels } = frontend;
  const scale = melScale(frontend);
  const [low, high] = [scale.from(f_min), scale.from(f_max)];
  /** @param {number} bands  from the centre of the lowest */
  const edge = (bands) => scale.to(low + ((high - low) * (bands + 0.5)) / (n_mels + 1));
  return new FrequencyAxis(scale === SLANEY ? "slaney" : "mel", edge(0), edge(n_mels));
}

/**
 * The axis for a sound: the model's bands, and the sound's own frequencies where those reach higher.
 * @param {ScaleName} scale
 * @param {FrequencyAxis} bands
 * @param {number} highest  Hz, of the sound; 0: not known
 */
export function soundAxis(scale, bands, highest) {
  const low = scale === "log" ? Math.max(bands.low, LOWEST) : bands.low;
  return new FrequencyAxis(scale, low, highest > BEYOND * bands.high ? highest : bands.high);
}

/** The last matrix that was computed for another axis, of each that was. @type {WeakMap<Matrix, PlacedRows>} */
const computed = new WeakMap();

/** @typedef {{matrix: Matrix, axis: FrequencyAxis}} PlacedRows  a matrix whose rows are even steps of an axis */

/**
 * A matrix with its rows in even steps of another scale, between the same frequencies.
 * @param {PlacedRows | PlacedSpectrogram} placed
 * @param {ScaleName} scale
 * @returns {PlacedRows}
 */
export function onScale({ matrix, axis }, scale) {
  if (axis.scale === scale) return { matrix, axis };
  const known = computed.get(matrix);
  if (known?.axis.scale === scale) return known;
  const to = soundAxis(scale, axis, 0);
  const { rows, columns, values } = matrix;
  const found = new Float32Array(ROWS * columns);
  for (let row = 0; row < ROWS; row += 1) {
    const at = axis.shareOf(to.frequencyAt((row + 0.5) / ROWS)) * rows - 0.5;
    const below = Math.min(Math.max(Math.floor(at), 0), rows - 1);
    const above = Math.min(below + 1, rows - 1);
    const part = Math.min(Math.max(at - below, 0), 1);
    for (let column = 0; column < columns; column += 1) {
      const low = values[below * columns + column];
      found[row * columns + column] = low + part * (values[above * columns + column] - low);
    }
  }
  const placed = { matrix: new Matrix(ROWS, columns, found), axis: to };
  computed.set(matrix, placed);
  return placed;
}
