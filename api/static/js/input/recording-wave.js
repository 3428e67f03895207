// The waveform of a recording while it runs: a bar for each block of samples, the latest at the right end.

import { h } from "../view/dom.js";
import { clearedContext, fitToBox, oncePerFrame, themeColours } from "../sound/canvas.js";
import { t } from "../words.js";

const BAR = 3; // px, with the gap beside it

/** {element, add(samples)}. */
export function recordingWave() {
  const element = h("canvas", { class: "wave", width: 0, height: 0, role: "img", "aria-label": t("recorder.wave") });
  /** The lowest and the highest sample of each block. @type {[low: number, high: number][]} */
  const blocks = [];

  const draw = oncePerFrame(() => {
    if (!fitToBox(element)) return;
    const { context, width, height } = clearedContext(element);
    const shown = blocks.slice(-Math.floor(width / BAR));
    const first = width - shown.length * BAR;
    context.fillStyle = themeColours().accent;
    shown.forEach(([low, high], i) => {
      const top = ((1 - high) * height) / 2;
      context.fillRect(first + i * BAR, top, BAR - 1, Math.max(((high - low) * height) / 2, 1));
    });
  });

  return {
    element,
    /** @param {Float32Array} samples */
    add(samples) {
      let [low, high] = [1, -1];
      for (const sample of samples) {
        if (sample < low) low = sample;
        if (sample > high) high = sample;
      }
      if (low <= high) blocks.push([Math.max(low, -1), Math.min(high, 1)]);
      if (blocks.length > 2_000) blocks.splice(0, 1_000); // wider than any screen
      draw();
    },
  };
}
