// What lies where: seconds from left to right, mel bands from the bottom up, and round numbers to write beside them.

import { hertz } from "../format.js";

const toMel = (frequency) => 2_595 * Math.log10(1 + frequency / 700);
const toHertz = (mel) => 700 * (10 ** (mel / 2_595) - 1);

/** Seconds that the time axis runs: a sound shorter than the model's window is padded with silence to its end. */
export function extent({ result, card, duration }) {
  if (!result || !card) return duration;
  const several = result.windows ? result.windows.length > 1 : result.duration > 1.2 * card.window_seconds;
  return several ? result.duration : card.window_seconds;
}

/** The frequency in Hz at a share of the frequency axis. Bands overlap: the centre of the lowest is not its edge. */
export function frequencyAt(share, { f_min, f_max, n_mels }) {
  const [low, high] = [toMel(f_min), toMel(f_max)];
  return Math.max(toHertz(low + ((high - low) * (share * n_mels + 0.5)) / (n_mels + 1)), 0);
}

/** Share of the frequency axis at a frequency in Hz. */
export function shareOf(frequency, { f_min, f_max, n_mels }) {
  const [low, high] = [toMel(f_min), toMel(f_max)];
  return (((toMel(frequency) - low) / (high - low)) * (n_mels + 1) - 0.5) / n_mels;
}

/** Where a spectrogram lies: {matrix, start, step}, column k being centred at start + k × step seconds. Null without one. */
export function placed(result, card) {
  const matrix = result?.spectrogram;
  if (!matrix || !card) return null;
  const step = card.frontend.hop / card.sample_rate;
  const whole = (matrix.columns + 1) * step >= Math.min(result.duration, extent({ result, card }));
  return { matrix, step, start: whole ? 0 : (result.windows?.[result.window]?.start ?? 0) };
}

/** The part of a spectrogram that is on show, for `paint`. */
export function regionOf({ matrix, start, step }, { start: from, end: to, low, high }) {
  const share = (time) => ((time - start) / step + 0.5) / matrix.columns;
  return { left: share(from), right: share(to), bottom: low, top: high };
}

const STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600];

/** [{place, label}] from `start` to `end` seconds on `width` pixels; `place` is a share of the width. */
export function timeTicks(start, end, width) {
  const room = Math.max(Math.floor(width / 76), 1);
  const step = STEPS.find((one) => (end - start) / one <= room) ?? 1_200;
  const digits = Math.max(-Math.floor(Math.log10(step) + 1e-9), 0);
  const minutes = end >= 100;
  const write = (time) => {
    const fixed = Number(time.toFixed(digits));
    if (!minutes) return `${fixed.toFixed(digits)} s`;
    return `${Math.floor(fixed / 60)}:${(fixed % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0")}`;
  };
  const ticks = [];
  for (let k = Math.ceil(start / step - 1e-9); k * step <= end + 1e-9; k += 1) {
    ticks.push({ place: (k * step - start) / (end - start), label: write(k * step) });
  }
  return ticks;
}

/** [{place, label}] of frequencies between two shares of the axis on `height` pixels; `place` is a share from the bottom. */
export function frequencyTicks(low, high, height, frontend) {
  const [from, to] = [frequencyAt(low, frontend), frequencyAt(high, frontend)];
  const ticks = [];
  const add = (frequency) => {
    const place = (shareOf(frequency, frontend) - low) / (high - low);
    const edge = 4 / height; // the lowest and the highest band's middle lie half a band inside of the edges
    if (place < -edge || place > 1 + edge) return;
    if (ticks.some((tick) => Math.abs(tick.place - place) * height < 30)) return;
    ticks.push({ place: Math.min(Math.max(place, 0), 1), label: hertz(frequency) });
  };
  const widest = () => {
    const places = [0, ...ticks.map(({ place }) => place).sort((a, b) => a - b), 1];
    return height * Math.max(...places.slice(1).map((place, i) => place - places[i]));
  };
  for (let power = 4; power >= 0; power -= 1) {
    for (const digit of [5, 2, 1]) {
      const step = digit * 10 ** power;
      if (widest() < 64) return ticks; // odder numbers would only fill it up
      for (let k = Math.ceil((0.97 * from) / step); k * step <= 1.03 * to; k += 1) add(k * step);
    }
  }
  return ticks;
}
