// What every drawing here needs: a canvas as sharp as the screen, the page's colours, and one drawing a frame.

import { h } from "../dom.js";

/** A canvas that is decoration or has its words elsewhere. */
export const canvas = (props = {}) => h("canvas", { width: 0, height: 0, ...props });

/** Give a canvas the device pixels of the box that it fills; true when it is to be drawn. */
export function fit(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 3);
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return width > 0 && height > 0;
}

/** A 2D context in CSS pixels, cleared: {context, width, height}. */
export function pen(canvas) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

let known = null; // of the theme
new MutationObserver(() => (known = null)).observe(document.documentElement, { attributeFilter: ["data-theme"] });

/** The page's colours by the names of their variables, as the theme has them now: see `names`. */
export function inks() {
  if (known) return known;
  const style = getComputedStyle(document.documentElement);
  const names = ["text", "muted", "line", "accent", "raised", "panel", "font"];
  return (known = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])));
}

/** A function that has `draw` called once before the next frame, however often it is called itself. */
export function onceAFrame(draw) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      draw();
    });
  };
}

/** Ticks and their words along the top of a strip, time running right. */
export function timeAxis(context, ticks, width, { muted, font }, size = 11) {
  Object.assign(context, { fillStyle: muted, font: `${size}px ${font}`, textBaseline: "top" });
  for (const { place, label } of ticks) {
    const x = place * width;
    const half = context.measureText(label).width / 2;
    context.fillRect(Math.min(Math.round(x), width - 1), 0, 1, 4);
    context.fillText(label, Math.min(Math.max(x - half, 0), width - 2 * half), 6);
  }
}

/** Ticks and their words at the right edge of a strip, values running upwards. */
export function valueAxis(context, ticks, width, height, { muted, font }, size = 11) {
  Object.assign(context, { fillStyle: muted, font: `${size}px ${font}`, textBaseline: "middle", textAlign: "right" });
  for (const { place, label } of ticks) {
    const y = (1 - place) * height;
    context.fillRect(width - 4, Math.min(Math.round(y), height - 1), 4, 1);
    context.fillText(label, width - 7, Math.min(Math.max(y, size / 2), height - size / 2));
  }
  context.textAlign = "left";
}
