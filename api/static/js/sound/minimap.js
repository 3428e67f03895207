// The whole sound in a strip, and in it the part that is on show: a scroll bar that can be looked at.

import { h } from "../dom.js";
import { clock } from "../format.js";
import { playhead } from "../playhead.js";
import { viewport } from "../viewport.js";
import { canvas, fit, inks, pen } from "./ink.js";
import { paintSound } from "./spectrogram.js";

/** {element, draw(spectrum, peaks)} draws the whole; the part on show follows by itself. */
export function minimap(controls) {
  const picture = canvas({ class: "picture", "aria-hidden": "true" });
  const thumb = h("div", { class: "thumb" });
  const cursor = h("div", { class: "cursor" });
  const strip = h(
    "div",
    {
      class: "strip",
      role: "scrollbar",
      tabindex: "0",
      "aria-label": "Part of the sound on show",
      "aria-controls": controls,
      "aria-orientation": "horizontal",
      "aria-valuemin": "0",
      "aria-valuemax": "100",
      "aria-valuenow": "0",
    },
    picture,
    thumb,
    cursor,
  );
  const element = h("div", { class: "minimap" }, strip);

  let grip = null; // seconds from the pointer to the middle of the part on show
  const time = (event) => {
    const { left, width } = strip.getBoundingClientRect();
    return ((event.clientX - left) / width) * viewport.duration;
  };
  const length = () => viewport.end - viewport.start;
  const centre = (seconds) => viewport.show(seconds - length() / 2, seconds + length() / 2);
  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    strip.setPointerCapture(event.pointerId);
    const at = time(event);
    if (at < viewport.start || at > viewport.end) centre(at);
    grip = (viewport.start + viewport.end) / 2 - at;
  });
  strip.addEventListener("pointermove", (event) => grip !== null && centre(time(event) + grip));
  for (const end of ["pointerup", "pointercancel"]) strip.addEventListener(end, () => (grip = null));
  strip.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -0.1, ArrowRight: 0.1, PageUp: -1, PageDown: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (Number.isFinite(by)) viewport.pan(by * length());
    else centre(by < 0 ? 0 : viewport.duration);
  });

  viewport.addEventListener("change", follow);
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
    strip.setAttribute("aria-valuetext", `${clock(start)} to ${clock(end)} of ${clock(duration)}`);
  }

  return {
    element,
    draw(spectrum, peaks) {
      playhead.addCursor(cursor, (seconds) => seconds / viewport.duration);
      if (!fit(picture)) return;
      if (spectrum) return paintSound(picture, spectrum, { start: 0, end: viewport.duration, low: 0, high: 1 });
      const { context, width, height } = pen(picture);
      if (!peaks) return;
      const { min, max } = peaks.read(0, viewport.duration, Math.round(width));
      context.fillStyle = inks().muted;
      const half = height / 2 / (peaks.peak || 1);
      min.forEach(
        (low, x) => max[x] >= low && context.fillRect(x, height / 2 - max[x] * half, 1, (max[x] - low) * half + 1),
      );
    },
  };
}
