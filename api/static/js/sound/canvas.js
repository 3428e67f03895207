// What every canvas of the sound panel needs: sharp pixels, the theme's colours, one drawing a frame, and axes.

import { context2d, h } from "../view/dom.js";

/** @import { Props } from "../view/dom.js" */

/** @typedef {{position: number, label: string}} Tick  position: share of the axis, from the left or from the bottom */

/**
 * A canvas that fits itself to the page; see `fitToBox`.
 * @param {Props} [props]
 */
export const createCanvas = (props = {}) => h("canvas", { width: 0, height: 0, ...props });

/**
 * Give a canvas as many pixels as its box has on the screen.
 * @param {HTMLCanvasElement} canvas
 * @returns {boolean} whether there is anything to draw on
 */
export function fitToBox(canvas) {
  const scale = Math.min(devicePixelRatio || 1, 3);
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return width > 0 && height > 0;
}

/**
 * A cleared 2D context whose unit is a CSS pixel.
 * @param {HTMLCanvasElement} canvas
 */
export function clearedContext(canvas) {
  const context = context2d(canvas);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

const VARIABLES = /** @type {const} */ (["text", "muted", "line", "accent", "raised", "panel", "font"]);

/** @typedef {Record<(typeof VARIABLES)[number], string>} ThemeColours  values of the CSS variables */

/** @type {ThemeColours | null} */
let cached = null; // until the theme changes
new MutationObserver(() => (cached = null)).observe(document.documentElement, { attributeFilter: ["data-theme"] });

/** @returns {ThemeColours} */
export function themeColours() {
  if (cached) return cached;
  const style = getComputedStyle(document.documentElement);
  const entries = VARIABLES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]);
  return (cached = Object.fromEntries(entries));
}

/**
 * A function that schedules `draw` for the next frame; it runs once, however often it was scheduled. What is scheduled
 * when the page is printed runs at once: a printed page has no next frame.
 * @param {() => void} draw
 */
export function oncePerFrame(draw) {
  let scheduled = 0;
  const run = () => {
    cancelAnimationFrame(scheduled);
    scheduled = 0;
    draw();
  };
  addEventListener("beforeprint", () => scheduled && run());
  return () => {
    scheduled ||= requestAnimationFrame(run);
  };
}

/**
 * Draw ticks with labels along the top of a strip, time running to the right.
 * @param {CanvasRenderingContext2D} context
 * @param {Tick[]} ticks
 * @param {number} width
 * @param {ThemeColours} theme
 * @param {number} [size]  of the font, px
 */
export function drawTimeAxis(context, ticks, width, { muted, font }, size = 11) {
  Object.assign(context, { fillStyle: muted, font: `${size}px ${font}`, textBaseline: "top" });
  for (const { position, label } of ticks) {
    const x = position * width;
    const half = context.measureText(label).width / 2;
    context.fillRect(Math.min(Math.round(x), width - 1), 0, 1, 4);
    context.fillText(label, Math.min(Math.max(x - half, 0), width - 2 * half), 6);
  }
}

/**
 * Draw ticks with labels at the right edge of a strip, values running upwards.
 * @param {CanvasRenderingContext2D} context
 * @param {Tick[]} ticks
 * @param {number} width
 * @param {number} height
 * @param {ThemeColours} theme
 * @param {number} [size]  of the font, px
 */
export function drawValueAxis(context, ticks, width, height, { muted, font }, size = 11) {
  Object.assign(context, { fillStyle: muted, font: `${size}px ${font}`, textBaseline: "middle", textAlign: "right" });
  for (const { position, label } of ticks) {
    const y = (1 - position) * height;
    context.fillRect(width - 4, Math.min(Math.round(y), height - 1), 4, 1);
    context.fillText(label, width - 7, Math.min(Math.max(y, size / 2), height - size / 2));
  }
  context.textAlign = "left";
}
