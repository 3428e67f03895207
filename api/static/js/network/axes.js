// Ticks of time and frequency for a feature map.

import { clock, fixed, formatHertz } from "../view/format.js";

/** @import { MapAxes } from "./graph.js" */

/** @typedef {{at: number, text: string}} Tick  at: share of the width from the left, or of the height from the bottom */

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60]; // seconds
const FREQUENCIES = [100, 200, 500, 1_000, 2_000, 4_000, 8_000, 16_000]; // Hz

/**
 * @param {MapAxes} axes
 * @param {number} [most]  ticks
 * @returns {Tick[]}
 */
export function timeTicks({ start, seconds }, most = 8) {
  const step = STEPS.find((one) => seconds / one <= most) ?? 60;
  const first = Math.ceil(start / step - 1e-9);
  const count = Math.floor((start + seconds) / step + 1e-9) - first + 1;
  const digits = step < 1 ? 1 : 0;
  const minutes = start + seconds >= 100;
  return Array.from({ length: count }, (_, i) => {
    const time = (first + i) * step;
    return { at: (time - start) / seconds, text: minutes ? clock(time, digits) : `${fixed(time, digits)} s` };
  });
}

/**
 * Ticks far enough apart that their labels do not touch.
 * @param {MapAxes} axes
 * @returns {Tick[]}
 */
export function frequencyTicks({ low, high, shareOf }) {
  /** @type {Tick[]} */
  const ticks = [];
  for (const frequency of FREQUENCIES) {
    if (frequency < low || frequency > high) continue;
    const at = shareOf(frequency);
    const below = ticks.at(-1);
    if (!below || at - below.at > 0.1) ticks.push({ at, text: formatHertz(frequency) });
  }
  return ticks;
}
