// A plot over the time axis: canvas, axes and cursor, with zooming, panning and seeking by pointer, wheel, touch and keyboard.

import { h } from "../view/dom.js";
import { clock } from "../view/format.js";
import { playhead } from "../state/playhead.js";
import { viewport } from "../state/viewport.js";
import { timeTicks } from "./axes.js";
import { clearedContext, createCanvas, drawTimeAxis, drawValueAxis, fitToBox, themeColours } from "./canvas.js";
import { t } from "../words.js";

/** @import { SoundRegion } from "../server/types.js" */
/** @import { Tick } from "./canvas.js" */

/**
 * @typedef {{x: number, y: number}} Point  shares of width and height, y from the bottom
 *
 * @typedef {object} Drag  a drag with one pointer
 * @property {PointerEvent} event  where it began
 * @property {Point} point
 * @property {SoundRegion} region  what was visible then
 * @property {boolean} moved  by more than a click
 * @property {boolean} panning
 *
 * @typedef {object} Pinch  where two fingers are
 * @property {number} x  their middle, as shares
 * @property {number} y
 * @property {number} apart  their distance, as a share
 * @property {SoundRegion} region  what was visible then
 *
 * @typedef {object} Brush  while it is active, a drag selects a region for it instead of zooming
 * @property {() => boolean} isActive
 * @property {(region: SoundRegion) => void} onRegion
 * @property {(event: KeyboardEvent) => boolean} onKey  returns whether the key had a meaning
 */

const CLICK = 5; // px: a movement below this is a click

/**
 * @param {object} options
 * @param {string} options.label  for screen readers
 * @param {string} options.describedBy  id of the text that explains the pointer and the keys
 * @param {string} options.name  CSS class
 * @param {boolean} [options.hasFrequency]  whether there is a frequency axis: regions then have a height
 * @param {(point: Point | null) => void} [options.onHover]  gets the pointer's position, or null when it leaves
 * @param {Brush | null} [options.brush]
 */
export function plot({ label, describedBy, name, hasFrequency = false, onHover = () => {}, brush = null }) {
  const gutter = createCanvas({ class: "gutter", "aria-hidden": "true" });
  const axis = createCanvas({ class: "axis", "aria-hidden": "true" });
  const canvas = createCanvas({ class: "image", role: "img", "aria-label": label });
  const cursor = h("div", { class: "cursor" });
  const selection = h("div", { class: "selection", hidden: true });
  const overlay = h(
    "div",
    {
      class: "overlay",
      role: "slider",
      tabindex: "0",
      "aria-label": t("plot.position", { label: label.toLowerCase() }),
      "aria-describedby": describedBy,
      "aria-valuemin": "0",
      "aria-valuemax": "0",
      "aria-valuenow": "0",
    },
    selection,
    cursor,
  );
  const stage = h("div", { class: "stage" }, canvas, overlay);
  const element = h("div", { class: `plot ${name}` }, gutter, stage, axis);
  addPointers(overlay, selection, hasFrequency, onHover, brush);
  overlay.addEventListener("keydown", (event) => {
    if (brush?.isActive() && brush.onKey(event)) event.preventDefault();
    else onKey(event);
  });
  overlay.addEventListener("wheel", (event) => onWheel(event, overlay, hasFrequency), { passive: false });

  let announced = -1; // seconds; once a second while it plays
  playhead.on("move", () => {
    const now = playhead.playing ? Math.floor(playhead.time) : playhead.time;
    if (now === announced) return;
    announced = now;
    overlay.setAttribute("aria-valuenow", now.toFixed(2));
    overlay.setAttribute("aria-valuemax", playhead.duration.toFixed(2));
    overlay.setAttribute("aria-valuetext", t("plot.of", { now: clock(now), duration: clock(playhead.duration) }));
  });

  return {
    element,
    stage,
    canvas,
    overlay,
    /**
     * Draw the axes.
     * @param {(height: number) => Tick[]} valueTicks  the ticks at the left
     */
    draw(valueTicks) {
      const theme = themeColours();
      if (fitToBox(gutter)) {
        const { context, width, height } = clearedContext(gutter);
        drawValueAxis(context, valueTicks(height), width, height, theme);
      }
      if (fitToBox(axis)) {
        const { context, width } = clearedContext(axis);
        drawTimeAxis(context, timeTicks(viewport.start, viewport.end, width), width, theme);
      }
      playhead.addCursor(cursor, (seconds) => viewport.position(seconds));
    },
  };
}

/**
 * Put an absolutely positioned element over a region of the sound.
 * @param {HTMLElement} element
 * @param {SoundRegion} region
 * @param {boolean} hasFrequency  false: the whole height
 */
export function cover(element, { start, end, low, high }, hasFrequency) {
  const left = viewport.position(start);
  const right = viewport.position(end);
  const height = hasFrequency ? viewport.high - viewport.low : 1;
  const bottom = hasFrequency ? (low - viewport.low) / height : 0;
  const top = hasFrequency ? (high - viewport.low) / height : 1;
  Object.assign(element.style, {
    left: `${100 * left}%`,
    width: `${100 * (right - left)}%`,
    bottom: `${100 * bottom}%`,
    height: `${100 * (top - bottom)}%`,
  });
}

/**
 * @param {MouseEvent} event
 * @param {HTMLElement} element
 * @returns {Point}
 */
function pointOf(event, element) {
  const { left, bottom, width, height } = element.getBoundingClientRect();
  /** @param {number} share */
  const clamp = (share) => Math.min(Math.max(share, 0), 1);
  return { x: clamp((event.clientX - left) / width), y: clamp((bottom - event.clientY) / height) };
}

/** The share of the whole frequency axis at a share of the height. @param {number} y */
const frequencyShare = (y) => viewport.low + y * (viewport.high - viewport.low);

/** @returns {SoundRegion} */
function visibleRegion() {
  const { start, end, low, high } = viewport;
  return { start, end, low, high };
}

/**
 * A click seeks; a drag selects a region to zoom into or for the brush, and pans with Shift; two fingers zoom and pan.
 * @param {HTMLElement} overlay
 * @param {HTMLElement} selection
 * @param {boolean} hasFrequency
 * @param {(point: Point | null) => void} onHover
 * @param {Brush | null} brush
 */
function addPointers(overlay, selection, hasFrequency, onHover, brush) {
  /** Pointers that are down. @type {Map<number, Point>} */
  const down = new Map();
  /** @type {Drag | null} */
  let drag = null;
  /** @type {Pinch | null} */
  let pinch = null;

  /**
   * The region that was dragged over; a drag straight along one axis means that axis, and a finger is seldom straight.
   * @param {Drag} drag
   * @param {PointerEvent} event
   * @param {Point} b
   * @returns {SoundRegion}
   */
  const selected = ({ event: first, point: a }, event, b) => {
    const straight = event.pointerType === "touch" ? 40 : 12;
    const flat = !hasFrequency || Math.abs(event.clientY - first.clientY) < straight;
    const thin = Math.abs(event.clientX - first.clientX) < 12;
    const [start, end] = thin ? [0, 1] : [Math.min(a.x, b.x), Math.max(a.x, b.x)];
    const [low, high] = flat ? [0, 1] : [Math.min(a.y, b.y), Math.max(a.y, b.y)];
    return {
      start: viewport.timeAt(start),
      end: viewport.timeAt(end),
      low: frequencyShare(low),
      high: frequencyShare(high),
    };
  };
  const endDrag = () => {
    drag = null;
    selection.hidden = true;
  };
  const twoFingers = () => {
    const [a, b] = down.values();
    return pinchOf(a, b);
  };

  overlay.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    overlay.setPointerCapture(event.pointerId);
    const point = pointOf(event, overlay);
    down.set(event.pointerId, point);
    if (down.size === 2) {
      endDrag();
      pinch = twoFingers();
    } else {
      drag = { event, point, region: visibleRegion(), moved: false, panning: event.shiftKey };
    }
  });
  overlay.addEventListener("pointermove", (event) => {
    const point = pointOf(event, overlay);
    onHover(point);
    if (!down.has(event.pointerId)) return;
    down.set(event.pointerId, point);
    if (pinch && down.size === 2) return applyPinch(pinch, twoFingers(), hasFrequency);
    if (!drag) return;
    drag.moved ||= Math.hypot(event.clientX - drag.event.clientX, event.clientY - drag.event.clientY) > CLICK;
    if (!drag.moved) return;
    if (drag.panning) {
      const { start, end, low, high } = drag.region;
      const across = (drag.point.x - point.x) * (end - start);
      const up = hasFrequency ? (drag.point.y - point.y) * (high - low) : 0;
      viewport.show(start + across, end + across, low + up, high + up);
    } else {
      selection.hidden = false;
      cover(selection, selected(drag, event, point), hasFrequency);
    }
  });
  overlay.addEventListener("pointerup", (event) => {
    if (drag && down.has(event.pointerId)) {
      const point = pointOf(event, overlay);
      if (!drag.moved) playhead.seek(viewport.timeAt(point.x));
      else if (!drag.panning) {
        const region = selected(drag, event, point);
        if (brush?.isActive()) brush.onRegion(region);
        else viewport.show(region.start, region.end, region.low, region.high);
      }
    }
    lift(event);
  });
  /** @param {PointerEvent} event */
  const lift = (event) => {
    down.delete(event.pointerId);
    if (down.size < 2) pinch = null;
    endDrag();
  };
  overlay.addEventListener("pointercancel", lift);
  overlay.addEventListener("pointerleave", () => onHover(null));
  overlay.addEventListener("dblclick", () => viewport.reset());
}

/**
 * @param {Point} a
 * @param {Point} b
 * @returns {Pinch}
 */
function pinchOf(a, b) {
  const apart = Math.max(Math.hypot(a.x - b.x, a.y - b.y), 0.02);
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart, region: visibleRegion() };
}

/**
 * Keep between the fingers what was between them at the beginning.
 * @param {Pinch} first
 * @param {Pinch} now
 * @param {boolean} hasFrequency
 */
function applyPinch(first, now, hasFrequency) {
  const { start, end, low, high } = first.region;
  const factor = first.apart / now.apart;
  const length = (end - start) * factor;
  const from = start + first.x * (end - start) - now.x * length;
  const height = hasFrequency ? (high - low) * factor : high - low;
  const bottom = hasFrequency ? low + first.y * (high - low) - now.y * height : low;
  viewport.show(from, from + length, bottom, bottom + height);
}

/**
 * Ctrl (or a pinch on a touchpad) zooms time, Shift the frequencies; without either the page scrolls.
 * @param {WheelEvent} event
 * @param {HTMLElement} overlay
 * @param {boolean} hasFrequency
 */
function onWheel(event, overlay, hasFrequency) {
  if (!event.ctrlKey && !event.shiftKey) return;
  event.preventDefault();
  const turn = (event.deltaY || event.deltaX) * (event.deltaMode === 1 ? 30 : 1);
  const factor = Math.exp(Math.min(Math.max(turn, -240), 240) / 400);
  const { x, y } = pointOf(event, overlay);
  if (event.ctrlKey) viewport.zoom(factor, viewport.timeAt(x));
  else if (hasFrequency) {
    const [low, high, at] = [viewport.low, viewport.high, frequencyShare(y)];
    viewport.show(viewport.start, viewport.end, at - (at - low) * factor, at + (high - at) * factor);
  }
}

/** @param {KeyboardEvent} event */
function onKey(event) {
  const { key, shiftKey, altKey, ctrlKey, metaKey } = event;
  if (ctrlKey || metaKey) return;
  const step = shiftKey ? 0.1 : 1; // seconds
  const [length, height] = [viewport.end - viewport.start, viewport.high - viewport.low];
  const middle = (viewport.start + viewport.end) / 2;
  /** @type {Record<string, () => void>} */
  const actions = altKey
    ? {
        ArrowLeft: () => viewport.pan(-length / 8),
        ArrowRight: () => viewport.pan(length / 8),
        ArrowUp: () => viewport.pan(0, height / 8),
        ArrowDown: () => viewport.pan(0, -height / 8),
      }
    : {
        ArrowLeft: () => playhead.seek(playhead.time - step),
        ArrowDown: () => playhead.seek(playhead.time - step),
        ArrowRight: () => playhead.seek(playhead.time + step),
        ArrowUp: () => playhead.seek(playhead.time + step),
        PageUp: () => playhead.seek(playhead.time + 10),
        PageDown: () => playhead.seek(playhead.time - 10),
        Home: () => playhead.seek(0),
        End: () => playhead.seek(playhead.duration),
        "+": () => viewport.zoom(1 / 1.5, middle),
        "-": () => viewport.zoom(1.5, middle),
        0: () => viewport.reset(),
      };
  if (!Object.hasOwn(actions, key)) return;
  event.preventDefault();
  actions[key]();
}
