// The events of a long sound, and the class of every window. A click or Enter seeks to a window and looks into it.
// Both are on canvases, so that hundreds of windows zoom without a new layout; below them are options for screen readers.

import { classHues, hueColour } from "../result/class-colours.js";
import { h } from "../view/dom.js";
import { legend, showEvent } from "../result/events.js";
import { className, clock, percent } from "../view/format.js";
import { playhead } from "../state/playhead.js";
import { nextIndex } from "../view/roving-focus.js";
import { viewport } from "../state/viewport.js";
import { clearedContext, createCanvas, fitToBox, themeColours } from "./canvas.js";
import { t } from "../words.js";

/** @import { Detection, Result, Window } from "../server/types.js" */
/** @import { Look } from "../library/sound.js" */
/** @import { ThemeColours } from "./canvas.js" */

/**
 * @typedef {object} Bar  a window as it is drawn
 * @property {string} name  of its class; empty where there is nothing to hear
 * @property {number} confidence
 * @property {string} label
 * @property {number} hue  degrees
 * @property {number} from  seconds: the part of the window that is drawn
 * @property {number} to
 * @property {HTMLElement} option
 *
 * @typedef {Detection & {lane: number, hue: number}} PlacedEvent  an event in a row where it covers no other
 */

const CONFIDENT = 0.4; // a window below this confidence is hatched
const LABELS = 20; // px above the bars
const MIN_LABEL = 40; // px that a label needs
const LANE = 18; // px that a row of events is high
const LANES = 4; // rows at most; further events cover others
const QUIET = t("timeline.quiet");

/**
 * {element, show(result), mark(window, looking), draw()}.
 * @param {(window: number) => void} onLook  gets the index of the window that was clicked
 */
export function timeline(onLook) {
  const title = t("timeline.title");
  const canvas = createCanvas({ class: "image", "aria-hidden": "true", title });
  const options = h("div", { class: "options" });
  const role = { role: "listbox", tabindex: "0", "aria-label": t("timeline.label") };
  const list = h("div", { class: "windows", ...role }, options, canvas);
  const eventCanvas = createCanvas({ class: "event-bars", "aria-hidden": "true" }); // the list of events has buttons
  const reading = h("output", { class: "window-name number", "aria-live": "off" });
  const key = h("div", { class: "key" });
  const foot = h("div", { class: "foot" }, reading, key);
  const element = h("div", { class: "timeline", hidden: true }, eventCanvas, list, foot);
  /** @type {Bar[]} */
  let bars = [];
  /** @type {PlacedEvent[]} */
  let events = [];
  let pointed = -1; // the window under the pointer or the finger
  /** The window that has been requested. @type {number | null} */
  let requested = null;
  let mapped = -1; // the window that the feature maps belong to
  let current = -1; // the window that the playhead is in
  let active = -1; // the window that the keyboard has selected

  /** @param {Result | null} result */
  function show(result) {
    const windows = result?.windows ?? [];
    element.hidden = windows.length <= 1;
    mapped = current = active = pointed = -1;
    requested = null;
    const hues = result ? classHues(result) : new Map();
    const duration = result?.duration ?? 0;
    bars =
      windows.length <= 1
        ? []
        : windows.map((window, i) => {
            const [first] = window.predictions;
            const isQuiet = window.active === false;
            const [name, confidence] = isQuiet ? ["", 0] : [first.class, first.confidence];
            const hue = hues.get(name) ?? 0;
            const said = isQuiet ? QUIET : `${className(name)}, ${percent(confidence)}`;
            const doubt = !isQuiet && confidence < CONFIDENT ? t("timeline.unsure") : "";
            const label = `${t("common.span", { start: clock(window.start), end: clock(window.end) })}: ${said}${doubt}`;
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
    events = bars.length ? placeEvents(result?.detections ?? [], hues) : [];
    const lanes = Math.max(0, ...events.map(({ lane }) => lane + 1));
    eventCanvas.hidden = lanes === 0;
    eventCanvas.style.height = `${lanes * LANE}px`;
    key.replaceChildren();
    if (result && events.length) key.append(legend(result));
    follow();
  }

  /**
   * Mark the window that the feature maps belong to.
   * @param {number} window
   * @param {Look | null} looking  what has been requested and is not there yet
   */
  function mark(window, looking) {
    mapped = window;
    requested = looking?.window ?? null;
    bars.forEach(({ option, label }, i) =>
      option.setAttribute("aria-label", `${label}${i === mapped ? t("timeline.mapped") : ""}`),
    );
    read();
    draw();
  }

  /** Name the window under the pointer, of the keyboard, or of the playhead. */
  function read() {
    const i = [pointed, active, current].find((one) => bars[one]) ?? -1;
    const note = i === requested ? t("timeline.looking") : i === mapped ? t("timeline.here") : "";
    reading.textContent = bars[i] ? `${bars[i].label}${note}` : "";
  }

  function draw() {
    if (!bars.length || !fitToBox(canvas)) return;
    const { context, width, height } = clearedContext(canvas);
    const theme = themeColours();
    /** @param {number} seconds */
    const x = (seconds) => viewport.position(seconds) * width;
    bars.forEach(({ name, from, to, confidence, hue }, i) => {
      const [left, right] = [x(from), x(to)];
      if (right < 0 || left > width) return;
      const gap = right - left > 5 ? 1 : 0;
      const tall = Math.max(confidence * (height - LABELS), 3);
      const colour = name ? hueColour(hue) : theme.muted;
      if (i === current || i === active || i === pointed) {
        context.fillStyle = theme.line;
        context.fillRect(left, LABELS, right - left - gap, height - LABELS);
      }
      context.fillStyle = colour;
      if (!name || confidence >= CONFIDENT) context.fillRect(left, height - tall, right - left - gap, tall);
      else hatch(context, colour, left, height - tall, right - left - gap, tall);
    });
    drawLabels(context, x, theme);
    drawEvents(theme);
    frame(mapped, theme.text);
    if (requested !== null) {
      context.setLineDash([4, 3]);
      frame(requested, theme.accent);
      context.setLineDash([]);
    }
    if (document.activeElement === list) frame(active, theme.accent);

    /** @type {(i: number, colour: string) => void} */
    function frame(i, colour) {
      if (!bars[i]) return;
      Object.assign(context, { strokeStyle: colour, lineWidth: 2 });
      const left = x(bars[i].from);
      context.strokeRect(left + 1, LABELS - 1, Math.max(x(bars[i].to) - left - 2, 2), height - LABELS);
    }
  }

  /** @param {ThemeColours} theme */
  function drawEvents({ font, panel }) {
    if (!events.length || !fitToBox(eventCanvas)) return;
    const { context, width } = clearedContext(eventCanvas);
    Object.assign(context, { font: `12px ${font}`, textBaseline: "middle" });
    for (const { class: name, start, end, lane, hue } of events) {
      const left = viewport.position(start) * width;
      const size = Math.max(viewport.position(end) * width - left, 3);
      if (left + size < 0 || left > width) continue;
      context.fillStyle = hueColour(hue);
      context.fillRect(left, lane * LANE + 1, size, LANE - 2);
      const from = Math.max(left, 0);
      context.fillStyle = panel;
      fillLabel(context, className(name), from + 4, lane * LANE + LANE / 2, Math.min(left + size, width) - from - 8);
    }
  }

  /**
   * Neighbours of one class share a label, which stays visible as long as they are.
   * @param {CanvasRenderingContext2D} context
   * @param {(seconds: number) => number} x
   * @param {ThemeColours} theme
   */
  function drawLabels(context, x, { text, muted, font }) {
    Object.assign(context, { font: `12px ${font}`, textBaseline: "middle" });
    const width = canvas.clientWidth;
    for (let first = 0, next; first < bars.length; first = next) {
      for (next = first + 1; bars[next]?.name === bars[first].name;) next += 1;
      const left = Math.max(x(bars[first].from), 0);
      const room = Math.min(x(bars[next - 1].to), width) - left - 6;
      const { name } = bars[first];
      context.fillStyle = name ? text : muted;
      fillLabel(context, name ? className(name) : QUIET, left + 4, LABELS / 2, room);
    }
  }

  /** @param {number} i */
  function go(i) {
    activate(i);
    onLook(i);
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
    read();
    draw();
  }

  /** Select the window that the playhead is in. */
  function follow() {
    const now = bars.findLastIndex(({ from }) => playhead.time >= from - 1e-6);
    if (now === current) return read();
    bars[current]?.option.setAttribute("aria-selected", "false");
    bars[now]?.option.setAttribute("aria-selected", "true");
    current = now;
    read();
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

  /**
   * The event under the pointer.
   * @param {MouseEvent} event
   */
  function eventAt(event) {
    const { left, top, width } = eventCanvas.getBoundingClientRect();
    const time = viewport.timeAt((event.clientX - left) / width);
    const lane = Math.floor((event.clientY - top) / LANE);
    const margin = (3 * (viewport.end - viewport.start)) / width; // an event is drawn at least 3 px wide
    return events.findLast((one) => one.lane === lane && time >= one.start && time < Math.max(one.end, one.start + margin));
  }

  canvas.addEventListener("click", (event) => {
    const i = windowAt(event);
    if (i >= 0) go(i);
  });
  /** @param {number} i */
  const point = (i) => {
    if (i === pointed) return;
    pointed = i;
    read();
    draw();
  };
  for (const kind of /** @type {const} */ (["pointerdown", "pointermove"]))
    canvas.addEventListener(kind, (event) => point(windowAt(event)));
  for (const kind of /** @type {const} */ (["pointerleave", "pointercancel"]))
    canvas.addEventListener(kind, () => point(-1));
  eventCanvas.addEventListener("click", (event) => {
    const found = eventAt(event);
    if (found) showEvent(found);
  });
  eventCanvas.addEventListener("pointermove", (event) => {
    const found = eventAt(event);
    eventCanvas.title = found
      ? `${className(found.class)}, ${t("common.span", { start: clock(found.start), end: clock(found.end) })}, ${percent(found.confidence)}`
      : "";
  });
  list.addEventListener("keydown", (event) => {
    const at = Math.max(active < 0 ? current : active, 0);
    const next = nextIndex(event, at, bars.length);
    if (next !== null) activate(next);
    else if (event.key === "Enter" && !event.altKey && !event.ctrlKey && !event.metaKey) go(at);
    else return;
    event.preventDefault();
  });
  list.addEventListener("focus", () => activate(Math.max(active < 0 ? current : active, 0)));
  list.addEventListener("blur", () => {
    active = -1;
    read();
    draw();
  });
  playhead.on("move", follow);

  return { element, show, mark, draw };
}

/**
 * Write a label into a width, shortened where it does not fit; nothing where there is no room.
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} left
 * @param {number} middle
 * @param {number} room  px
 */
function fillLabel(context, text, left, middle, room) {
  if (room < Math.min(MIN_LABEL, context.measureText(text).width)) return;
  let label = text;
  while (label.length > 1 && context.measureText(label).width > room)
    label = `${label.replace(/…$/, "").slice(0, -1)}…`;
  context.fillText(label, left, middle);
}

/**
 * Each event in the first row where it covers no other.
 * @param {Detection[]} detections  by their start
 * @param {Map<string, number>} hues
 * @returns {PlacedEvent[]}
 */
function placeEvents(detections, hues) {
  /** @type {number[]} */
  const ends = []; // of the last event of each row
  return detections.map((detection) => {
    const free = ends.findIndex((end) => end <= detection.start);
    const lane = free >= 0 ? free : Math.min(ends.length, LANES - 1);
    ends[lane] = Math.max(detection.end, ends[lane] ?? 0);
    return { ...detection, lane, hue: hues.get(detection.class) ?? 0 };
  });
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
