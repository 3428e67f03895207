// The whole sound in a strip, with the visible region marked: a scroll bar.

import { h } from "../view/dom.js";
import { clock } from "../view/format.js";
import { playhead } from "../state/playhead.js";
import { viewport } from "../state/viewport.js";
import { clearedContext, createCanvas, fitToBox, themeColours } from "./canvas.js";
import { paintSpectrogram } from "./spectrogram.js";
import { t } from "../words.js";

/** @import { PlacedSpectrogram } from "../server/types.js" */
/** @import { Peaks } from "./peaks.js" */

/** Visible lengths that a key moves by; infinite: to the end. @type {Record<string, number>} */
const KEYS = { ArrowLeft: -0.1, ArrowRight: 0.1, PageUp: -1, PageDown: 1, Home: -Infinity, End: Infinity };

/**
 * {element, draw(spectrogram, peaks)}: draws the whole sound; the visible region follows the viewport.
 * @param {string} controls  id of the element that it scrolls
 */
export function minimap(controls) {
  const canvas = createCanvas({ class: "image", "aria-hidden": "true" });
  const thumb = h("div", { class: "thumb" });
  const cursor = h("div", { class: "cursor" });
  const strip = h(
    "div",
    {
      class: "strip",
      role: "scrollbar",
      tabindex: "0",
      "aria-label": t("minimap.label"),
      "aria-controls": controls,
      "aria-orientation": "horizontal",
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": "0",
    },
    canvas,
    thumb,
    cursor,
  );
  const element = h("div", { class: "minimap" }, strip);

  /** Seconds from the pointer to the middle of the visible region, while it is dragged. @type {number | null} */
  let grip = null;
  /** @param {PointerEvent} event */
  const timeOf = (event) => {
    const { left, width } = strip.getBoundingClientRect();
    return ((event.clientX - left) / width) * viewport.duration;
  };
  const length = () => viewport.end - viewport.start;
  /** @param {number} seconds */
  const centre = (seconds) => viewport.show(seconds - length() / 2, seconds + length() / 2);
  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    strip.setPointerCapture(event.pointerId);
    const time = timeOf(event);
    if (time < viewport.start || time > viewport.end) centre(time);
    grip = (viewport.start + viewport.end) / 2 - time;
  });
  strip.addEventListener("pointermove", (event) => grip !== null && centre(timeOf(event) + grip));
  for (const end of ["pointerup", "pointercancel"]) strip.addEventListener(end, () => (grip = null));
  strip.addEventListener("keydown", (event) => {
    const by = KEYS[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (Number.isFinite(by)) viewport.pan(by * length());
    else centre(by < 0 ? 0 : viewport.duration);
  });

  viewport.on("change", follow);
  follow();

  function follow() {
    element.classList.toggle("needed", !viewport.whole);
    strip.tabIndex = viewport.whole ? -1 : 0;
    const { start, end, duration, low, high } = viewport;
    Object.assign(thumb.style, {
      left: `${(100 * start) / duration}%`,
      width: `${(100 * (end - start)) / duration}%`,
      bottom: `${100 * low}%`,
      height: `${100 * (high - low)}%`,
    });
    const room = duration - (end - start);
    strip.setAttribute("aria-valuenow", String(room > 0 ? Math.round((100 * start) / room) : 0));
    strip.setAttribute("aria-valuetext", t("minimap.value", { start: clock(start), end: clock(end), duration: clock(duration) }));
  }

  return {
    element,
    /** @type {(spectrogram: PlacedSpectrogram | null, peaks: Peaks | null) => void} */
    draw(spectrogram, peaks) {
      playhead.addCursor(cursor, (seconds) => seconds / viewport.duration);
      if (!fitToBox(canvas)) return;
      if (spectrogram) {
        paintSpectrogram(canvas, spectrogram, { start: 0, end: viewport.duration, low: 0, high: 1 });
        return;
      }
      const { context, width, height } = clearedContext(canvas);
      if (!peaks) return;
      const { min, max } = peaks.read(0, viewport.duration, Math.round(width));
      context.fillStyle = themeColours().muted;
      const half = height / 2 / (peaks.peak || 1);
      min.forEach(
        (low, x) => max[x] >= low && context.fillRect(x, height / 2 - max[x] * half, 1, (max[x] - low) * half + 1),
      );
    },
  };
}
