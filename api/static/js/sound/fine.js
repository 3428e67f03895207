// A finer spectrogram of the visible region, computed in the browser from the sound itself: one column and one row for each pixel,
// with frames as long as suits the region. It also has the frequencies above those that the model gets.

import { FFT } from "../edit/fft.js";
import { Matrix } from "../signal/matrix.js";

/** @import { PlacedSpectrogram, Repetition, SoundRegion } from "../server/types.js" */
/** @import { Audio } from "../edit/audio.js" */
/** @import { FrequencyAxis } from "./frequency-axis.js" */

/**
 * @typedef {object} FinePicture
 * @property {Matrix} matrix       dBFS
 * @property {SoundRegion} region  that it shows
 * @property {FrequencyAxis} axis  that the shares of the region are of
 */

const [SHORTEST, LONGEST] = [64, 8_192]; // samples of a frame
const MOST_FRAMES = 3; // averaged for one column, where frames are shorter than columns
const TURN = 12; // milliseconds of work after which the page gets a turn
const FLOOR = 1e-14; // power of silence, relative to a sine at full scale
const LOBE = [1, 0.7205, 0.25, 0.0288]; // power of a sine in its bin and in the next ones, with a Hann window padded to twice its length

/** A mixture of all channels, as the model gets it. @param {Float32Array<ArrayBuffer>[]} channels */
export function mixed(channels) {
  if (channels.length === 1) return channels[0];
  const sum = new Float32Array(channels[0].length);
  for (const channel of channels) for (let i = 0; i < sum.length; i += 1) sum[i] += channel[i] / channels.length;
  return sum;
}

/**
 * A sound as it is in the window of the model.
 * @param {Float32Array<ArrayBuffer>} samples
 * @param {number} rate  Hz
 * @param {Repetition | null} repetition
 */
export function repeated(samples, rate, repetition) {
  if (!repetition) return samples;
  const filled = new Float32Array(Math.round(repetition.end * rate));
  const period = Math.round(repetition.period * rate);
  for (let start = 0; start < filled.length; start += period) {
    filled.set(samples.subarray(0, Math.min(period, filled.length - start)), start);
  }
  return filled;
}

/**
 * The spectrogram of a region; null where `signal` is aborted.
 * @param {Audio} audio  of one channel
 * @param {FrequencyAxis} axis
 * @param {SoundRegion} region
 * @param {{width: number, height: number, bands?: PlacedSpectrogram}} size  of the picture of that region, px; bands: rows are
 *   as wide as these at least and add up the same, so that noise is as bright as in them
 * @param {AbortSignal} signal
 * @returns {Promise<FinePicture | null>}
 */
export async function finePicture({ rate, channels: [samples] }, axis, region, { width, height, bands }, signal) {
  const step = (region.end - region.start) / width;
  const frame = frameLength(axis, region, width, height, rate);
  const fft = new FFT(2 * frame); // zero-padded to twice its length, so that rows between two bins are smooth
  const window = Float64Array.from({ length: frame }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / frame));
  const scale = (4 / frame) ** 2; // a sine at full scale has half the sum of the window
  const filters = rowFilters(axis, region, height, rate, frame, bands);
  const repeats = Math.min(Math.max(Math.floor((step * rate) / frame), 1), MOST_FRAMES);
  const magnitudes = bands?.spectrum === "magnitude";
  const values = new Float32Array(height * width);
  const power = new Float64Array(height);
  const [real, imaginary] = [new Float64Array(2 * frame), new Float64Array(2 * frame)];
  let turn = performance.now();
  for (let column = 0; column < width; column += 1) {
    power.fill(0);
    for (let repeat = 0; repeat < repeats; repeat += 1) {
      const middle = (region.start + (column + (repeat + 0.5) / repeats) * step) * rate;
      const first = Math.round(middle - frame / 2);
      real.fill(0);
      imaginary.fill(0);
      for (let i = Math.max(-first, 0); i < Math.min(frame, samples.length - first); i += 1)
        real[i] = samples[first + i] * window[i];
      fft.transform(real, imaginary);
      for (let bin = 0; bin <= frame; bin += 1) {
        const square = real[bin] ** 2 + imaginary[bin] ** 2;
        real[bin] = magnitudes ? Math.sqrt(square) : square;
      }
      filters.forEach(({ bin, weights }, row) => {
        let sum = 0;
        for (let i = 0; i < weights.length; i += 1) sum += weights[i] * real[bin + i];
        power[row] += magnitudes ? sum ** 2 : sum;
      });
    }
    for (let row = 0; row < height; row += 1)
      values[row * width + column] = 10 * Math.log10(Math.max((power[row] * scale) / repeats, FLOOR));
    if (performance.now() - turn < TURN) continue;
    await new Promise((resolve) => setTimeout(resolve));
    if (signal.aborted) return null;
    turn = performance.now();
  }
  return { matrix: new Matrix(height, width, values), region, axis };
}

/**
 * How many samples a frame has: a power of two, with which a cell of the transform is about as wide as high on the screen.
 * @param {FrequencyAxis} axis
 * @param {SoundRegion} region
 * @param {number} width   px
 * @param {number} height  px
 * @param {number} rate    Hz
 */
function frameLength(axis, { start, end, low, high }, width, height, rate) {
  const middle = (low + high) / 2;
  const hertz = (axis.frequencyAt(middle + 0.5 / height) - axis.frequencyAt(middle - 0.5 / height)) * (high - low); // a pixel
  const seconds = Math.sqrt((2 * (end - start)) / width / hertz);
  return Math.min(Math.max(2 ** Math.round(Math.log2(seconds * rate)), SHORTEST), LONGEST);
}

/**
 * What of the power spectrum each row shows: the power of its share of the axis, and at least that of one bin.
 * @param {FrequencyAxis} axis
 * @param {SoundRegion} region
 * @param {number} height
 * @param {number} rate  Hz
 * @param {number} frame  samples; the spectrum has twice as many bins, up to the rate
 * @param {PlacedSpectrogram} [bands]
 * @returns {{bin: number, weights: Float64Array}[]}  the first bin, and a weight for it and each that follows
 */
function rowFilters(axis, { low, high }, height, rate, frame, bands) {
  /** @param {number} row */
  const hertzOf = (row) => axis.frequencyAt(low + (high - low) * ((row + 0.5) / height));
  /** @param {number} hertz */
  const binOf = (hertz) => (hertz / rate) * 2 * frame;
  /** Half of the width of a band there, in Hz. @param {number} hertz */
  const least = (hertz) => (bands ? bands.axis.frequencyAt(bands.axis.shareOf(hertz) + 1 / bands.matrix.rows) - hertz : 0);
  return Array.from({ length: height }, (_, row) => {
    const hertz = hertzOf(row);
    const at = Math.min(binOf(hertz), frame);
    const half = binOf(Math.max((hertzOf(row + 1) - hertzOf(row - 1)) / 2, least(hertz)));
    if (half <= 2) {
      const bin = Math.min(Math.floor(at), frame - 1);
      return { bin, weights: Float64Array.of(bin + 1 - at, at - bin) };
    }
    const bin = Math.max(Math.ceil(at - half), 0);
    const count = Math.max(Math.min(Math.floor(at + half), frame) - bin + 1, 1);
    /** @param {number} distance  in bins */
    const weight = (distance) => Math.max(1 - Math.abs(distance) / half, 0);
    // Bands add the power of their bins, of which there are twice as many here; a row alone has the level of a sine in its middle.
    const whole = bands ? 2 : LOBE.reduce((sum, power, i) => sum + (i ? 2 : 1) * weight(i) * power, 0);
    return { bin, weights: Float64Array.from({ length: count }, (_, i) => weight(bin + i - at) / whole) };
  });
}
