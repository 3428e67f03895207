// The smallest and the largest sample of every stretch of a sound, at several lengths of stretch, so that any region is drawn
// from about as many numbers as it has pixels.

const STEP = 4; // stretches of one level that make one of the next
const MOST = 240; // seconds times channels that are decoded here: 42 MB
const SLICE = 1 << 18; // samples between two breaths of the page
const FINE = 4_000_000; // samples that are kept singly; longer sounds are kept in stretches
const RATE = 44_100;

export class Peaks {
  #levels = [];

  /** `min`, `max`: of stretches of `seconds` each, from the beginning. */
  constructor(min, max, seconds) {
    this.#levels.push({ min, max, seconds });
    while (this.#levels.at(-1).min.length > 512) this.#levels.push(coarser(this.#levels.at(-1)));
    this.duration = min.length * seconds;
    const top = this.#levels.at(-1);
    let peak = 0;
    for (let i = 0; i < top.min.length; i += 1) peak = Math.max(peak, -top.min[i], top.max[i]);
    this.peak = Math.min(peak, 1); // largest magnitude in the sound; bringing it to another rate can overshoot full scale
  }

  /** {min, max}: Float32Arrays of `width` pixels from `start` to `end` seconds; NaN beyond the sound. */
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

/** From what the server sends: a Matrix of two rows. */
export function fromWaveform({ columns, values }, duration) {
  return new Peaks(values.subarray(0, columns), values.subarray(columns), duration / columns);
}

/** Whether a sound takes little enough memory for `fromFile`. */
export const decodable = (duration, channels) => duration * channels <= MOST;

let last = Promise.resolve(); // a decode cannot be stopped: the next one waits for it, so that there is one in memory

/** From a file, decoded by the browser beside the page's own work; null where it cannot or `signal` is aborted. */
export function fromFile(file, signal) {
  last = last.then(() => (signal.aborted ? null : read(file, signal)));
  return last;
}

async function read(file, signal) {
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  } catch {
    return null;
  }
  const sides = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  const size = audio.length > FINE ? 16 : 1; // samples a stretch
  const count = Math.ceil(audio.length / size);
  const min = new Float32Array(count).fill(Infinity);
  const max = new Float32Array(count).fill(-Infinity);
  for (const samples of sides) {
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
