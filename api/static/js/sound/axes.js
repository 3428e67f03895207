// The axes of the sound: where a spectrogram lies on them, and round numbers for the ticks.

import { fullScaleOf } from "../signal/decibels.js";
import { clock, fixed, formatHertz } from "../view/format.js";
import { bandAxis } from "./frequency-axis.js";

/** @import { ModelCard, PlacedSpectrogram, MatrixRegion, Repetition, Result } from "../server/types.js" */
/** @import { Region } from "../edit/region.js" */
/** @import { Tick } from "./canvas.js" */
/** @import { FrequencyAxis } from "./frequency-axis.js" */

/**
 * Length of the time axis in seconds: a sound shorter than the model's window fills it, repeated or followed by silence.
 * @param {Result | null} result
 * @param {ModelCard | null} card
 * @param {number} duration  seconds, where there is no result
 */
export function axisLength(result, card, duration) {
  if (!result || !card) return duration;
  const several = result.windows ? result.windows.length > 1 : result.duration > 1.2 * card.window_seconds;
  return several ? result.duration : card.window_seconds;
}

/**
 * How a sound that is shorter than the model's window is repeated; null where it is in the window once.
 * @param {Result} result
 * @param {ModelCard} card
 * @returns {Repetition | null}
 */
export function repetitionOf(result, card) {
  const { repeat_pause: pause } = card.frontend;
  const period = result.duration + (pause ?? 0);
  return pause == null || period >= card.window_seconds ? null : { period, end: card.window_seconds };
}

/**
 * A region of the time axis where it is in the sound itself: one in a repetition is moved to the same moment of the sound.
 * @template {{start: number, end: number}} T
 * @param {T} region
 * @param {Repetition | null} repetition
 * @returns {T}
 */
export function inSound(region, repetition) {
  if (!repetition) return region;
  const moved = Math.floor(region.start / repetition.period) * repetition.period;
  return { ...region, start: region.start - moved, end: Math.min(region.end - moved, repetition.period) };
}

/**
 * The spectrogram of a result on the time axis, or null.
 * @param {Result | null} result
 * @param {ModelCard | null} card
 * @returns {PlacedSpectrogram | null}
 */
export function placeSpectrogram(result, card) {
  const matrix = result?.spectrogram;
  if (!matrix || !card) return null;
  const { center = true, win_length: window, n_fft, hop } = card.frontend;
  const frame = hop / card.sample_rate;
  // The last column may be of fewer frames.
  const frames = result.averaged ? 2 ** Math.max(Math.round(Math.log2(result.duration / frame / matrix.columns)), 0) : 1;
  const step = frames * frame;
  const missing = center ? 1 : (window ?? n_fft) / hop; // columns that end behind the sound
  const whole = (matrix.columns + missing) * step >= Math.min(result.duration, axisLength(result, card, result.duration));
  const start = (whole ? 0 : startOf(result)) + ((frames - 1) / 2) * frame;
  return { ...frontEnd(card), matrix, step, start, repetition: repetitionOf(result, card) };
}

/**
 * The spectrogram of the window that is looked into, where that of the whole has fewer columns; otherwise null.
 * @param {Result | null} result
 * @param {ModelCard | null} card
 * @returns {PlacedSpectrogram | null}
 */
export function placeDetail(result, card) {
  const matrix = result?.detail;
  if (!matrix || !card) return null;
  return { ...frontEnd(card), matrix, step: card.frontend.hop / card.sample_rate, start: startOf(result), repetition: null };
}

/** Of the window `window`, in seconds. @param {Result} result */
const startOf = ({ windows, window }) => windows?.[window]?.start ?? 0;

/** @param {ModelCard} card */
const frontEnd = ({ frontend }) => ({
  axis: bandAxis(frontend),
  fullScale: fullScaleOf(frontend),
  spectrum: frontend.spectrum ?? "power",
});

/**
 * The part of a spectrogram that a region of the sound shows.
 * @param {PlacedSpectrogram} spectrogram
 * @param {Region} region
 * @returns {MatrixRegion}
 */
export function matrixRegion({ matrix, start, step, axis }, { start: from, end: to, low, high }) {
  /** @param {number} time */
  const share = (time) => ((time - start) / step + 0.5) / matrix.columns;
  return { left: share(from), right: share(to), bottom: axis.shareOf(low), top: axis.shareOf(high) };
}

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600]; // seconds

/**
 * Ticks of a time axis.
 * @param {number} start  seconds
 * @param {number} end  seconds
 * @param {number} width  px
 * @returns {Tick[]}
 */
export function timeTicks(start, end, width) {
  const most = Math.max(Math.floor(width / 76), 1);
  const step = STEPS.find((one) => (end - start) / one <= most) ?? 1_200;
  const digits = Math.max(-Math.floor(Math.log10(step) + 1e-9), 0);
  const minutes = end >= 100;
  /** @param {number} time */
  const format = (time) => {
    const rounded = Number(time.toFixed(digits));
    return minutes ? clock(rounded, digits) : `${fixed(rounded, digits)} s`;
  };
  const ticks = [];
  for (let k = Math.ceil(start / step - 1e-9); k * step <= end + 1e-9; k += 1) {
    ticks.push({ position: (k * step - start) / (end - start), label: format(k * step) });
  }
  return ticks;
}

/**
 * Ticks of a frequency axis.
 * @param {number} low  share of the whole frequency axis
 * @param {number} high
 * @param {number} height  px
 * @param {FrequencyAxis} axis
 * @returns {Tick[]}
 */
export function frequencyTicks(low, high, height, axis) {
  const [from, to] = [axis.frequencyAt(low), axis.frequencyAt(high)];
  /** @type {Tick[]} */
  const ticks = [];
  /** @param {number} frequency */
  const add = (frequency) => {
    if (frequency <= 0) return; // a logarithmic axis has no 0
    const position = (axis.shareOf(frequency) - low) / (high - low);
    const edge = 4 / height; // the centres of the lowest and of the highest band lie half a band inside of the edges
    if (position < -edge || position > 1 + edge) return;
    if (ticks.some((tick) => Math.abs(tick.position - position) * height < 22)) return;
    ticks.push({ position: Math.min(Math.max(position, 0), 1), label: formatHertz(frequency) });
  };
  const widestGap = () => {
    const positions = [0, ...ticks.map(({ position }) => position).sort((a, b) => a - b), 1];
    return height * Math.max(...positions.slice(1).map((position, i) => position - positions[i]));
  };
  for (let power = 4; power >= 0; power -= 1) {
    for (const digit of [5, 2, 1]) {
      const step = digit * 10 ** power;
      if (widestGap() < 64) return ticks; // less round numbers would only crowd it
      for (let k = Math.ceil((0.97 * from) / step); k * step <= 1.03 * to; k += 1) add(k * step);
    }
  }
  return ticks;
}
