// The class of every window of a long sound. A click or Enter seeks to a window.
// The bars are on a canvas, so that hundreds of windows zoom without a new layout; below it are options for screen readers.

import { h } from "../dom.js";
import { className, clock, percent } from "../format.js";
import { playhead } from "../playhead.js";
import { viewport } from "../viewport.js";
import { clearedContext, createCanvas, fitToBox, themeColours } from "./canvas.js";

/** @import { Result, Window } from "../types.js" */
/** @import { ThemeColours } from "./canvas.js" */

/**
 * @typedef {object} Bar  a window as it is drawn
 * @property {string} name  of its class
 * @property {number} confidence
 * @property {string} label
 * @property {number} hue  degrees
 * @property {number} from  seconds: the part of the window that is drawn
 * @property {number} to
 * @property {HTMLElement} option
 */

const CONFIDENT = 0.4; // a window below this confidence is hatched
const LABELS = 20; // px above the bars
const MIN_LABEL = 40; // px that a label needs

/** {element, show(result), draw()}. */
export function timeline() {
  const canvas = createCanvas({ class: "image", "aria-hidden": "true" });
  const options = h("div", { class: "options" });
  const role = { role: "listbox", tabindex: "0", "aria-label": "Windows of the sound" };
  const list = h("div", { class: "windows", ...role }, options, canvas);
  const element = h("div", { class: "timeline", hidden: true }, list);
  /** @type {Bar[]} */
  let bars = [];
  let mapped = -1; // the window that the feature maps belong to
  let current = -1; // the window that the playhead is in
  let active = -1; // the window that the keyboard has selected

  /** @param {Result | null} result */
  function show(result) {
    const windows = result?.windows ?? [];
    element.hidden = windows.length <= 1;
    mapped = result?.window ?? -1;
    current = active = -1;
    /** Class -> degrees, each far from those before it. @type {Map<string, number>} */
    const hues = new Map();
    const duration = result?.duration ?? 0;
    bars =
      windows.length <= 1
        ? []
        : windows.map((window, i) => {
            const { class: name, confidence } = window.predictions[0];
            const hue = hues.get(name) ?? Math.round((hues.size * 137.508 + 210) % 360);
            hues.set(name, hue);
            const note = `${confidence < CONFIDENT ? ", not confident" : ""}${i === mapped ? "; the maps are of this window" : ""}`;
            const label = `${clock(window.start)} to ${clock(window.end)}: ${className(name)}, ${percent(confidence)}${note}`;
            const option = h("div", {
              id: `window-${i}`,
              role: "option",
              "aria-selected": "false",
              "aria-label": label,
              on: { click: () => go(i) },
            });
            const { from, to } = extent(windows, i, duration);
            option.style.width = `${(100 * (to - from)) / duration}%`;
            return { name, confidence, label, hue, from, to, option };
          });
    options.replaceChildren(...bars.map(({ option }) => option));
    list.removeAttribute("aria-activedescendant");
    follow();
  }

  function draw() {
    if (!bars.length || !fitToBox(canvas)) return;
    const { context, width, height } = clearedContext(canvas);
    const theme = themeColours();
    const light = document.documentElement.dataset.theme === "light";
    /** @param {number} seconds */
    const x = (seconds) => viewport.position(seconds) * width;
    bars.forEach(({ from, to, confidence, hue }, i) => {
      const [left, right] = [x(from), x(to)];
      if (right < 0 || left > width) return;
      const gap = right - left > 5 ? 1 : 0;
      const tall = Math.max(confidence * (height - LABELS), 3);
      const colour = light ? `hsl(${hue} 58% 42%)` : `hsl(${hue} 62% 62%)`;
      if (i === current || i === active) {
        context.fillStyle = theme.line;
        context.fillRect(left, LABELS, right - left - gap, height - LABELS);
      }
      context.fillStyle = colour;
      if (confidence >= CONFIDENT) context.fillRect(left, height - tall, right - left - gap, tall);
      else hatch(context, colour, left, height - tall, right - left - gap, tall);
    });
    drawLabels(context, x, theme);
    frame(mapped, theme.text);
    if (document.activeElement === list) frame(active, theme.accent);

    /** @type {(i: number, colour: string) => void} */
    function frame(i, colour) {
      if (!bars[i]) return;
      Object.assign(context, { strokeStyle: colour, lineWidth: 2 });
      const left = x(bars[i].from);
      context.strokeRect(left + 1, LABELS - 1, Math.max(x(bars[i].to) - left - 2, 2), height - LABELS);
    }
  }

  /**
   * Neighbours of one class share a label, which stays visible as long as they are.
   * @param {CanvasRenderingContext2D} context
   * @param {(seconds: number) => number} x
   * @param {ThemeColours} theme
   */
  function drawLabels(context, x, { text, font }) {
    Object.assign(context, { fillStyle: text, font: `12px ${font}`, textBaseline: "middle" });
    const width = canvas.clientWidth;
    for (let first = 0, next; first < bars.length; first = next) {
      for (next = first + 1; bars[next]?.name === bars[first].name;) next += 1;
      const left = Math.max(x(bars[first].from), 0);
      const room = Math.min(x(bars[next - 1].to), width) - left - 6;
      if (room < MIN_LABEL) continue;
      let label = className(bars[first].name);
      while (label.length > 1 && context.measureText(label).width > room)
        label = `${label.replace(/…$/, "").slice(0, -1)}…`;
      context.fillText(label, left + 4, LABELS / 2);
    }
  }

  /** @param {number} i */
  function go(i) {
    activate(i);
    const { from, to } = bars[i];
    playhead.seek(from);
    const half = (viewport.end - viewport.start) / 2;
    const middle = (from + to) / 2;
    if (from < viewport.start || from > viewport.end) viewport.show(middle - half, middle + half);
  }

  /** @param {number} i */
  function activate(i) {
    active = i;
    list.setAttribute("aria-activedescendant", `window-${i}`);
    draw();
  }

  /** Select the window that the playhead is in. */
  function follow() {
    const now = bars.findLastIndex(({ from }) => playhead.time >= from - 1e-6);
    if (now === current) return;
    bars[current]?.option.setAttribute("aria-selected", "false");
    bars[now]?.option.setAttribute("aria-selected", "true");
    current = now;
    draw();
  }

  /**
   * The window under the pointer, or -1.
   * @param {MouseEvent} event
   */
  function windowAt(event) {
    const { left, width } = canvas.getBoundingClientRect();
    const time = viewport.timeAt((event.clientX - left) / width);
    return bars.findIndex(({ from, to }) => time >= from && time < to);
  }

  canvas.addEventListener("click", (event) => {
    const i = windowAt(event);
    if (i >= 0) go(i);
  });
  canvas.addEventListener("pointermove", (event) => (canvas.title = bars[windowAt(event)]?.label ?? ""));
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = Math.max(active < 0 ? current : active, 0);
    const [before, after, end] = [at - 1, at + 1, bars.length - 1];
    /** @type {Record<string, number>} */
    const keys = { ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: end };
    const next = keys[event.key];
    if (event.key === "Enter") go(at);
    else if (next !== undefined) activate(Math.min(Math.max(next, 0), end));
    else return;
    event.preventDefault();
  });
  list.addEventListener("focus", () => activate(Math.max(active < 0 ? current : active, 0)));
  list.addEventListener("blur", () => {
    active = -1;
    draw();
  });
  playhead.on("move", follow);

  return { element, show, draw };
}

/**
 * Fill a bar with diagonal lines.
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour
 * @param {number} left
 * @param {number} top
 * @param {number} width
 * @param {number} height
 */
function hatch(context, colour, left, top, width, height) {
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  Object.assign(context, { strokeStyle: colour, lineWidth: 1.5 });
  context.beginPath();
  const from = Math.max(left, 0); // a window may be far wider than the canvas
  for (let x = from - height; x < Math.min(left + width, context.canvas.width); x += 5) {
    context.moveTo(x, top + height);
    context.lineTo(x + height, top);
  }
  context.stroke();
  context.fillRect(left, top, width, 1);
  context.restore();
}

/**
 * The part of a window that is drawn. Windows overlap: each is drawn from halfway to the one before to halfway to the one
 * after, so that none covers another.
 * @param {Window[]} windows
 * @param {number} i
 * @param {number} duration  seconds
 */
function extent(windows, i, duration) {
  /** @param {Window} window */
  const centre = ({ start, end }) => (start + end) / 2;
  return {
    from: i === 0 ? 0 : (centre(windows[i - 1]) + centre(windows[i])) / 2,
    to: i === windows.length - 1 ? duration : (centre(windows[i]) + centre(windows[i + 1])) / 2,
  };
}
