// The smallest and the largest sample of every stretch of a sound, at several lengths of stretch, so that any region is drawn
// from about as many numbers as it has pixels.

/** @import { Matrix } from "../signal/matrix.js" */

/**
 * @typedef {object} Level
 * @property {Float32Array} min
 * @property {Float32Array} max
 * @property {number} seconds  of one stretch
 */

const STEP = 4; // stretches of one level that make one of the next
const MAX_DECODED = 240; // seconds times channels that are decoded here: 42 MB
const SLICE = 1 << 18; // samples that are read before the page gets a turn
const SINGLE = 4_000_000; // samples of a sound that are stored one by one; longer sounds are stored in stretches
const RATE = 44_100; // Hz

export class Peaks {
  /** @type {Level[]} */
  #levels;

  /**
   * @param {Float32Array} min  of each stretch, from the beginning
   * @param {Float32Array} max
   * @param {number} seconds  of a stretch
   */
  constructor(min, max, seconds) {
    let level = { min, max, seconds };
    this.#levels = [level];
    while (level.min.length > 512) this.#levels.push((level = coarser(level)));
    let peak = 0;
    for (let i = 0; i < level.min.length; i += 1) peak = Math.max(peak, -level.min[i], level.max[i]);
    /** The largest magnitude in the sound; resampling can overshoot full scale. */
    this.peak = Math.min(peak, 1);
  }

  /**
   * Minimum and maximum of each pixel; NaN beyond the sound.
   * @param {number} start  seconds
   * @param {number} end  seconds
   * @param {number} width  px
   */
  read(start, end, width) {
    const pixel = (end - start) / width;
    const level = this.#levels.findLast(({ seconds }) => seconds <= pixel) ?? this.#levels[0];
    const min = new Float32Array(width).fill(NaN);
    const max = new Float32Array(width).fill(NaN);
    const count = level.min.length;
    for (let x = 0; x < width; x += 1) {
      const first = Math.floor((start + x * pixel) / level.seconds);
      const last = Math.max(Math.ceil((start + (x + 1) * pixel) / level.seconds), first + 1);
      for (let i = Math.max(first, 0); i < Math.min(last, count); i += 1) {
        if (!(level.min[i] >= min[x])) min[x] = level.min[i];
        if (!(level.max[i] <= max[x])) max[x] = level.max[i];
      }
    }
    return { min, max };
  }
}

/**
 * @param {Level} level
 * @returns {Level}
 */
function coarser({ min, max, seconds }) {
  const count = Math.ceil(min.length / STEP);
  const next = { min: new Float32Array(count), max: new Float32Array(count), seconds: seconds * STEP };
  for (let i = 0; i < count; i += 1) {
    let [low, high] = [Infinity, -Infinity];
    for (let j = STEP * i; j < Math.min(STEP * (i + 1), min.length); j += 1) {
      if (min[j] < low) low = min[j];
      if (max[j] > high) high = max[j];
    }
    next.min[i] = low;
    next.max[i] = high;
  }
  return next;
}

/**
 * Peaks of the waveform of a result.
 * @param {Matrix} waveform  two rows: minimum and maximum
 * @param {number} duration  seconds
 */
export function peaksOfWaveform({ columns, values }, duration) {
  return new Peaks(values.subarray(0, columns), values.subarray(columns), duration / columns);
}

/**
 * Whether a sound takes little enough memory for `decodePeaks`.
 * @param {number} duration  seconds
 * @param {number} channels
 */
export const isDecodable = (duration, channels) => duration * channels <= MAX_DECODED;

/** A decode cannot be stopped: the next one waits for it, so that only one is in memory. @type {Promise<Peaks | null>} */
let last = Promise.resolve(null);

/**
 * Peaks of a file, decoded by the browser in the background; null where it cannot decode it, or where `signal` is aborted.
 * @param {File} file
 * @param {AbortSignal} signal
 */
export function decodePeaks(file, signal) {
  last = last.then(() => (signal.aborted ? null : decode(file, signal)));
  return last;
}

/**
 * @param {File} file
 * @param {AbortSignal} signal
 */
async function decode(file, signal) {
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    return null;
  }
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  const size = audio.length > SINGLE ? 16 : 1; // samples of a stretch
  const count = Math.ceil(audio.length / size);
  const min = new Float32Array(count).fill(Infinity);
  const max = new Float32Array(count).fill(-Infinity);
  for (const samples of channels) {
    for (let done = 0; done < samples.length; done += SLICE) {
      if (signal.aborted) return null;
      const end = Math.min(done + SLICE, samples.length);
      for (let i = done; i < end; i += 1) {
        const at = size === 1 ? i : i >> 4;
        if (samples[i] < min[at]) min[at] = samples[i];
        if (samples[i] > max[at]) max[at] = samples[i];
      }
      await new Promise((resolve) => setTimeout(resolve));
    }
  }
  return signal.aborted || audio.length === 0 ? null : new Peaks(min, max, size / RATE);
}
