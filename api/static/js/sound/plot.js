// One picture of the sound with its axes, a cursor, and the ways to move about in it, by pointer, wheel, fingers and keys.

import { h } from "../dom.js";
import { clock } from "../format.js";
import { playhead } from "../playhead.js";
import { viewport } from "../viewport.js";
import { canvas, fit, inks, pen, timeAxis, valueAxis } from "./ink.js";
import { timeTicks } from "./scale.js";

const CLICK = 5; // pixels: what moves less was a click

/**
 * {element, stage, picture, overlay, draw(ticks)}. `label` names the slider that the picture is, `describe` is the id
 * of the words that explain it. With `tall` there is a frequency axis too: regions have a height. `onHover(share)` gets
 * the pointer's place as shares {x, y} with y from the bottom, or null when it leaves.
 */
export function plot({ label, describe, tall, name, onHover = () => {} }) {
  const gutter = canvas({ class: "gutter", "aria-hidden": "true" });
  const axis = canvas({ class: "axis", "aria-hidden": "true" });
  const picture = canvas({ class: "picture", role: "img", "aria-label": label });
  const cursor = h("div", { class: "cursor" });
  const box = h("div", { class: "selection", hidden: true });
  const overlay = h(
    "div",
    {
      class: "overlay",
      role: "slider",
      tabindex: "0",
      "aria-label": `Position, ${label.toLowerCase()}`,
      "aria-describedby": describe,
      "aria-valuemin": "0",
      "aria-valuemax": "0",
      "aria-valuenow": "0",
    },
    box,
    cursor,
  );
  const stage = h("div", { class: "stage" }, picture, overlay);
  const element = h("div", { class: `plot ${name}` }, gutter, stage, axis);
  pointers(overlay, box, tall, onHover);
  overlay.addEventListener("keydown", keys);
  overlay.addEventListener("wheel", (event) => wheel(event, tall), { passive: false });

  let said = -1;
  const say = () => {
    const second = playhead.playing ? Math.floor(playhead.time) : playhead.time;
    if (second === said) return;
    said = second;
    overlay.setAttribute("aria-valuenow", second.toFixed(2));
    overlay.setAttribute("aria-valuemax", playhead.duration.toFixed(2));
    overlay.setAttribute("aria-valuetext", `${clock(second)} of ${clock(playhead.duration)}`);
  };
  playhead.addEventListener("move", say);

  return {
    element,
    stage,
    picture,
    overlay,
    /** Write the axes; `ticks` are those at the left. */
    draw(ticks) {
      const ink = inks();
      if (fit(gutter)) {
        const { context, width, height } = pen(gutter);
        valueAxis(context, ticks(height), width, height, ink);
      }
      if (fit(axis)) {
        const { context, width } = pen(axis);
        timeAxis(context, timeTicks(viewport.start, viewport.end, width), width, ink);
      }
      playhead.addCursor(cursor, (seconds) => viewport.place(seconds));
    },
  };
}

/** Put an absolutely placed element over a region of what is on show: seconds, and shares of the frequency axis. */
export function cover(element, { start, end, low = 0, high = 1 }, tall) {
  const left = viewport.place(start);
  const right = viewport.place(end);
  const height = tall ? viewport.high - viewport.low : 1;
  const bottom = tall ? (low - viewport.low) / height : 0;
  const top = tall ? (high - viewport.low) / height : 1;
  Object.assign(element.style, {
    left: `${100 * left}%`,
    width: `${100 * (right - left)}%`,
    bottom: `${100 * bottom}%`,
    height: `${100 * (top - bottom)}%`,
  });
}

function shares(event, element) {
  const { left, bottom, width, height } = element.getBoundingClientRect();
  const kept = (share) => Math.min(Math.max(share, 0), 1);
  return { x: kept((event.clientX - left) / width), y: kept((bottom - event.clientY) / height) };
}

const bandAt = (y) => viewport.low + y * (viewport.high - viewport.low);

/** A click seeks, a drag selects a region to zoom into, with shift or two fingers it pans; two fingers pinch. */
function pointers(overlay, box, tall, onHover) {
  const down = new Map(); // pointer -> {x, y} now
  let from = null; // {event, share, region, moved, panning}
  let pinch = null;

  /** What was dragged over; a drag straight along one axis means that axis, and a finger is seldom straight. */
  const selection = (event, share) => {
    const [a, b] = [from.share, share];
    const straight = event.pointerType === "touch" ? 40 : 12;
    const flat = !tall || Math.abs(event.clientY - from.event.clientY) < straight;
    const thin = Math.abs(event.clientX - from.event.clientX) < 12;
    const [start, end] = thin ? [0, 1] : [Math.min(a.x, b.x), Math.max(a.x, b.x)];
    const [low, high] = flat ? [0, 1] : [Math.min(a.y, b.y), Math.max(a.y, b.y)];
    return { start: viewport.timeAt(start), end: viewport.timeAt(end), low: bandAt(low), high: bandAt(high) };
  };
  const forget = () => {
    from = null;
    box.hidden = true;
  };

  overlay.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    overlay.setPointerCapture(event.pointerId);
    const share = shares(event, overlay);
    down.set(event.pointerId, share);
    if (down.size === 2) {
      forget();
      pinch = gesture([...down.values()]);
    } else {
      const { start, end, low, high } = viewport;
      from = { event, share, region: [start, end, low, high], moved: false, panning: event.shiftKey };
    }
  });
  overlay.addEventListener("pointermove", (event) => {
    const share = shares(event, overlay);
    onHover(share);
    if (!down.has(event.pointerId)) return;
    down.set(event.pointerId, share);
    if (pinch && down.size === 2) return pinched(pinch, gesture([...down.values()]), tall);
    if (!from) return;
    from.moved ||= Math.hypot(event.clientX - from.event.clientX, event.clientY - from.event.clientY) > CLICK;
    if (!from.moved) return;
    if (from.panning) {
      const [start, end, low, high] = from.region;
      const across = (from.share.x - share.x) * (end - start);
      const up = tall ? (from.share.y - share.y) * (high - low) : 0;
      viewport.show(start + across, end + across, low + up, high + up);
    } else {
      box.hidden = false;
      cover(box, selection(event, share), tall);
    }
  });
  overlay.addEventListener("pointerup", (event) => {
    if (from && down.has(event.pointerId)) {
      const share = shares(event, overlay);
      if (!from.moved) playhead.seek(viewport.timeAt(share.x));
      else if (!from.panning) {
        const { start, end, low, high } = selection(event, share);
        viewport.show(start, end, low, high);
      }
    }
    lift(event);
  });
  const lift = (event) => {
    down.delete(event.pointerId);
    if (down.size < 2) pinch = null;
    forget();
  };
  overlay.addEventListener("pointercancel", lift);
  overlay.addEventListener("pointerleave", () => onHover(null));
  overlay.addEventListener("dblclick", () => viewport.reset());
}

/** Where two fingers are: their middle and how far apart, as shares, with the region on show when they came down. */
function gesture([a, b]) {
  const { start, end, low, high } = viewport;
  const apart = Math.max(Math.hypot(a.x - b.x, a.y - b.y), 0.02);
  return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart, region: [start, end, low, high] };
}

/** What was between the fingers when they came down stays between them. */
function pinched(before, now, tall) {
  const [start, end, low, high] = before.region;
  const factor = before.apart / now.apart;
  const length = (end - start) * factor;
  const from = start + before.x * (end - start) - now.x * length;
  const height = tall ? (high - low) * factor : high - low;
  const bottom = tall ? low + before.y * (high - low) - now.y * height : low;
  viewport.show(from, from + length, bottom, bottom + height);
}

/** Ctrl (or a pinch on a touchpad) zooms time, shift the frequencies; without either the page scrolls as always. */
function wheel(event, tall) {
  if (!event.ctrlKey && !event.shiftKey) return;
  event.preventDefault();
  const turn = (event.deltaY || event.deltaX) * (event.deltaMode === 1 ? 30 : 1);
  const factor = Math.exp(Math.min(Math.max(turn, -240), 240) / 400);
  const { x, y } = shares(event, event.currentTarget);
  if (event.ctrlKey) viewport.zoom(factor, viewport.timeAt(x));
  else if (tall) {
    const [low, high, at] = [viewport.low, viewport.high, bandAt(y)];
    viewport.show(viewport.start, viewport.end, at - (at - low) * factor, at + (high - at) * factor);
  }
}

function keys(event) {
  const { key, shiftKey, altKey, ctrlKey, metaKey } = event;
  if (ctrlKey || metaKey) return;
  const fine = shiftKey ? 0.1 : 1;
  const [length, height] = [viewport.end - viewport.start, viewport.high - viewport.low];
  const middle = (viewport.start + viewport.end) / 2;
  const actions = altKey
    ? {
        ArrowLeft: () => viewport.pan(-length / 8),
        ArrowRight: () => viewport.pan(length / 8),
        ArrowUp: () => viewport.pan(0, height / 8),
        ArrowDown: () => viewport.pan(0, -height / 8),
      }
    : {
        ArrowLeft: () => playhead.seek(playhead.time - fine),
        ArrowDown: () => playhead.seek(playhead.time - fine),
        ArrowRight: () => playhead.seek(playhead.time + fine),
        ArrowUp: () => playhead.seek(playhead.time + fine),
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
