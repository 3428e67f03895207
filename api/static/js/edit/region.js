// Mutes a region of time and frequency, or everything else: a masked short-time Fourier transform. The kept cells keep their
// phases, and the frames are overlapped and added again (Allen and Rabiner, 1977, doi:10.1109/PROC.1977.10770).

import { FFT } from "./fft.js";

/**
 * @typedef {object} Region  a part of a sound
 * @property {number} start  seconds
 * @property {number} end    seconds
 * @property {number} low    Hz
 * @property {number} high   Hz; Infinity: up to the highest frequency
 *
 * @typedef {"mute" | "keep"} Action  what is done with a region: it is muted, or everything else is
 */

const FRAME = 0.046; // seconds, about
const OVERLAP = 4; // frames that cover a sample
const TURN = 12; // milliseconds of work after which the page gets a turn

/**
 * Samples with a region muted, or with everything else muted. The transition in time is half a frame long.
 * @param {Float32Array} samples  of one channel
 * @param {number} rate  Hz
 * @param {Region} region
 * @param {Action} action
 * @returns {Promise<Float32Array<ArrayBuffer>>} new ones, as many
 */
export async function editRegion(samples, rate, region, action) {
  const inside = await extract(samples, rate, region);
  if (action === "mute") for (let i = 0; i < inside.length; i += 1) inside[i] = samples[i] - inside[i];
  return inside;
}

/**
 * The part of a sound that lies in a region. The parts of two regions that together are everything add up to the sound.
 * @param {Float32Array} samples
 * @param {number} rate  Hz
 * @param {Region} region
 */
async function extract(samples, rate, { start, end, low, high }) {
  return filter(samples, rate, start, end, () => (hertz) => Number(hertz >= low && hertz <= high));
}

/**
 * A sound whose frequencies are let through to a degree that depends on the time.
 * @param {Float32Array} samples  of one channel
 * @param {number} rate  Hz
 * @param {(seconds: number, hertz: number) => number} gainAt  0 to 1
 */
export const maskSound = (samples, rate, gainAt) =>
  filter(samples, rate, 0, samples.length / rate, (time) => (hertz) => gainAt(time, hertz));

/**
 * The frames of a stretch, each with its own gains, overlapped and added.
 * @param {Float32Array} samples
 * @param {number} rate  Hz
 * @param {number} start  seconds
 * @param {number} end  seconds
 * @param {(seconds: number) => (hertz: number) => number} gainsAt  of two frames, by the time between their middles
 */
async function filter(samples, rate, start, end, gainsAt) {
  const size = 2 ** Math.round(Math.log2(rate * FRAME));
  const hop = size / OVERLAP;
  const fft = new FFT(size);
  // The window before the transform times the one after it is a Hann window; overlapping ones sum up to half the overlap.
  const window = Float64Array.from({ length: size }, (_, i) => Math.sin((Math.PI * i) / size));
  const scale = 2 / OVERLAP / size;
  const [first, last] = framesOf(start, end, hop / rate, samples.length / rate);
  const found = new Float32Array(samples.length);
  const real = new Float64Array(size);
  const imaginary = new Float64Array(size);
  let turn = performance.now();
  // Two frames at once, as real and imaginary part: the mask is the same for positive and negative frequencies.
  for (let frame = first; frame <= last; frame += 2) {
    const [one, other] = [frame * hop - size / 2, (frame + 1) * hop - size / 2];
    const hasOther = frame < last;
    read(samples, one, window, real);
    if (hasOther) read(samples, other, window, imaginary);
    else imaginary.fill(0);
    fft.transform(real, imaginary);
    const gainOf = gainsAt(((frame + 0.5) * hop) / rate);
    for (let bin = 0; bin <= size / 2; bin += 1) {
      const gain = gainOf((bin * rate) / size);
      if (gain === 1) continue;
      real[bin] *= gain;
      imaginary[bin] *= gain;
      if (bin === 0 || bin === size / 2) continue;
      real[size - bin] *= gain;
      imaginary[size - bin] *= gain;
    }
    fft.transform(imaginary, real); // the inverse
    add(found, one, window, scale, real);
    if (hasOther) add(found, other, window, scale, imaginary);
    if (performance.now() - turn < TURN) continue;
    await new Promise((resolve) => setTimeout(resolve));
    turn = performance.now();
  }
  return found;
}

/**
 * A frame times the window; beyond the sound there is silence.
 * @param {Float32Array} samples
 * @param {number} start  index of its first sample, may be negative
 * @param {Float64Array} window
 * @param {Float64Array} frame
 */
function read(samples, start, window, frame) {
  const [from, to] = [Math.max(-start, 0), Math.min(samples.length - start, frame.length)];
  if (from > 0 || to < frame.length) frame.fill(0);
  for (let i = from; i < to; i += 1) frame[i] = samples[start + i] * window[i];
}

/**
 * Add a frame to the sound.
 * @param {Float32Array} samples
 * @param {number} start  index of its first sample, may be negative
 * @param {Float64Array} window
 * @param {number} scale
 * @param {Float64Array} frame
 */
function add(samples, start, window, scale, frame) {
  const to = Math.min(samples.length - start, frame.length);
  for (let i = Math.max(-start, 0); i < to; i += 1) samples[start + i] += frame[i] * window[i] * scale;
}

/**
 * The first and the last frame of a stretch: frame k is centred at k × step. At the ends of the sound, those that reach into it.
 * @param {number} start  seconds
 * @param {number} end  seconds
 * @param {number} step  seconds
 * @param {number} duration  seconds
 * @returns {[first: number, last: number]}
 */
function framesOf(start, end, step, duration) {
  const first = start <= 0 ? 1 - OVERLAP / 2 : Math.round(start / step);
  const last = end >= duration ? Math.ceil(duration / step) + OVERLAP / 2 - 1 : Math.round(end / step) - 1;
  return [first, Math.max(first, last)];
}
