// Ticks of time and frequency for a map.

import { hertz } from "../format.js";

const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60];
const TONES = [100, 200, 500, 1_000, 2_000, 4_000, 8_000, 16_000];

/** [{at: share of the width, text}]: five to ten seconds' ticks. */
export function timeTicks({ start, seconds }, most = 8) {
  const step = STEPS.find((one) => seconds / one <= most) ?? 60;
  const first = Math.ceil(start / step - 1e-9);
  const count = Math.floor((start + seconds) / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => {
    const time = (first + i) * step;
    return { at: (time - start) / seconds, text: `${Number(time.toFixed(1))} s` };
  });
}

/** [{at: share of the height from below, text}], none so near to another that they touch. */
export function pitchTicks({ low, high, share }) {
  const ticks = [];
  for (const tone of TONES) {
    if (tone < low || tone > high) continue;
    const at = share(tone);
    if (!ticks.length || at - ticks.at(-1).at > 0.1) ticks.push({ at, text: hertz(tone) });
  }
  return ticks;
}
