// What every window of a long sound was heard as. A click or Enter moves the player there.
// The picture is a canvas, so that hundreds of windows zoom without a new layout; beneath lie the options for screen readers.

import { h } from "../dom.js";
import { className, clock, percent } from "../format.js";
import { playhead } from "../playhead.js";
import { viewport } from "../viewport.js";
import { canvas, fit, inks, pen } from "./ink.js";

const SURE = 0.4; // confidence below which a window is shown as a guess
const LABELS = 20; // pixels for the labels above the bars
const ROOM = 40; // pixels that a label needs

/** {element, show(result), draw()}. */
export function timeline() {
  const picture = canvas({ class: "picture", "aria-hidden": "true" });
  const options = h("div", { class: "options" });
  const role = { role: "listbox", tabindex: "0", "aria-label": "Windows of the sound" };
  const list = h("div", { class: "windows", ...role }, options, picture);
  const element = h("div", { class: "timeline", hidden: true }, list);
  let windows = []; // {name, confidence, words, hue, from, to, option}: from..to in seconds is the part that is drawn
  let mapped = -1; // the window that maps are of
  let current = -1; // the one that the playhead is in
  let active = -1; // the one that the keys are at

  function show(result) {
    const several = result?.windows?.length > 1;
    element.hidden = !several;
    mapped = result?.window ?? -1;
    current = active = -1;
    const hues = new Map(); // class -> degrees, each far from those before it
    windows = (several ? territories(result) : []).map((window, i) => {
      const { class: name, confidence } = window.predictions[0];
      if (!hues.has(name)) hues.set(name, Math.round((hues.size * 137.508 + 210) % 360));
      const note = `${confidence < SURE ? ", not confident" : ""}${i === mapped ? "; the maps are of this window" : ""}`;
      const words = `${clock(window.start)} to ${clock(window.end)}: ${className(name)}, ${percent(confidence)}${note}`;
      const option = h("div", {
        id: `window-${i}`,
        role: "option",
        "aria-selected": "false",
        "aria-label": words,
        on: { click: () => go(i) },
      });
      option.style.width = `${(100 * (window.to - window.from)) / result.duration}%`;
      return { ...window, name, confidence, words, hue: hues.get(name), option };
    });
    options.replaceChildren(...windows.map(({ option }) => option));
    list.removeAttribute("aria-activedescendant");
    follow();
  }

  function draw() {
    if (!windows.length || !fit(picture)) return;
    const { context, width, height } = pen(picture);
    const ink = inks();
    const light = document.documentElement.dataset.theme === "light";
    const place = (seconds) => viewport.place(seconds) * width;
    windows.forEach(({ from, to, confidence, hue }, i) => {
      const [left, right] = [place(from), place(to)];
      if (right < 0 || left > width) return;
      const gap = right - left > 5 ? 1 : 0;
      const tall = Math.max(confidence * (height - LABELS), 3);
      const colour = light ? `hsl(${hue} 58% 42%)` : `hsl(${hue} 62% 62%)`;
      if (i === current || i === active) {
        context.fillStyle = ink.line;
        context.fillRect(left, LABELS, right - left - gap, height - LABELS);
      }
      context.fillStyle = colour;
      if (confidence >= SURE) context.fillRect(left, height - tall, right - left - gap, tall);
      else hatch(context, colour, left, height - tall, right - left - gap, tall);
    });
    labels(context, place, ink);
    frame(mapped, ink.text);
    if (document.activeElement === list) frame(active, ink.accent);

    function frame(i, colour) {
      if (!windows[i]) return;
      Object.assign(context, { strokeStyle: colour, lineWidth: 2 });
      const left = place(windows[i].from);
      context.strokeRect(left + 1, LABELS - 1, Math.max(place(windows[i].to) - left - 2, 2), height - LABELS);
    }
  }

  /** Neighbours of one class share a label, which stays in sight as long as they are. */
  function labels(context, place, { text, font }) {
    Object.assign(context, { fillStyle: text, font: `12px ${font}`, textBaseline: "middle" });
    const width = picture.clientWidth;
    for (let first = 0, next; first < windows.length; first = next) {
      for (next = first + 1; windows[next]?.name === windows[first].name;) next += 1;
      const left = Math.max(place(windows[first].from), 0);
      const room = Math.min(place(windows[next - 1].to), width) - left - 6;
      if (room < ROOM) continue;
      let words = className(windows[first].name);
      while (words.length > 1 && context.measureText(words).width > room)
        words = `${words.replace(/…$/, "").slice(0, -1)}…`;
      context.fillText(words, left + 4, LABELS / 2);
    }
  }

  function go(i) {
    choose(i);
    playhead.seek(windows[i].from);
    const half = (viewport.end - viewport.start) / 2;
    const middle = (windows[i].from + windows[i].to) / 2;
    if (windows[i].from < viewport.start || windows[i].from > viewport.end) viewport.show(middle - half, middle + half);
  }

  function choose(i) {
    active = i;
    list.setAttribute("aria-activedescendant", `window-${i}`);
    draw();
  }

  /** The window that is heard now. */
  function follow() {
    const now = windows.findLastIndex(({ from }) => playhead.time >= from - 1e-6);
    if (now === current) return;
    windows[current]?.option.setAttribute("aria-selected", "false");
    windows[now]?.option.setAttribute("aria-selected", "true");
    current = now;
    draw();
  }

  function under(event) {
    const { left, width } = picture.getBoundingClientRect();
    const time = viewport.timeAt((event.clientX - left) / width);
    return windows.findIndex(({ from, to }) => time >= from && time < to);
  }

  picture.addEventListener("click", (event) => under(event) >= 0 && go(under(event)));
  picture.addEventListener("pointermove", (event) => (picture.title = windows[under(event)]?.words ?? ""));
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const at = Math.max(active < 0 ? current : active, 0);
    const [before, after, end] = [at - 1, at + 1, windows.length - 1];
    const next = { ArrowLeft: before, ArrowUp: before, ArrowRight: after, ArrowDown: after, Home: 0, End: end }[
      event.key
    ];
    if (event.key === "Enter") go(at);
    else if (next !== undefined) choose(Math.min(Math.max(next, 0), windows.length - 1));
    else return;
    event.preventDefault();
  });
  list.addEventListener("focus", () => choose(Math.max(active < 0 ? current : active, 0)));
  list.addEventListener("blur", () => {
    active = -1;
    draw();
  });
  playhead.addEventListener("move", follow);

  return { element, show, draw };
}

function hatch(context, colour, left, top, width, height) {
  context.save();
  context.beginPath();
  context.rect(left, top, width, height);
  context.clip();
  Object.assign(context, { strokeStyle: colour, lineWidth: 1.5 });
  context.beginPath();
  const from = Math.max(left, 0); // a window may be far wider than the picture
  for (let x = from - height; x < Math.min(left + width, context.canvas.width); x += 5) {
    context.moveTo(x, top + height);
    context.lineTo(x + height, top);
  }
  context.stroke();
  context.fillRect(left, top, width, 1);
  context.restore();
}

/** Windows overlap: each is drawn from halfway to the one before to halfway to the one after, so that none hides another. */
export function territories({ windows, duration }) {
  const centre = ({ start, end }) => (start + end) / 2;
  return windows.map((window, i) => ({
    ...window,
    from: i === 0 ? 0 : (centre(windows[i - 1]) + centre(window)) / 2,
    to: i === windows.length - 1 ? duration : (centre(window) + centre(windows[i + 1])) / 2,
  }));
}
