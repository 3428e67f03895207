// Colour maps: a share of 0 to 1 becomes a colour. The tables are those of the PNG images that the API serves.

import { context2d } from "../view/dom.js";

/** @import { Colormap } from "../server/types.js" */
/** @typedef {Uint8Array<ArrayBuffer>} Table  256 × red, green, blue, opacity, 0 to 255 */

export const NAMES = ["magma", "viridis", "cividis", "grey"];

const grey = Uint8Array.from({ length: 1_024 }, (_, i) => (i % 4 === 3 ? 255 : i >> 2));
const tables = new Map([["grey", grey]]);

/** Resolves when the tables are loaded. Until then, and where they could not be loaded, every map is grey. */
export const ready = load();

async function load() {
  try {
    const response = await fetch(new URL("../../colormaps.json", import.meta.url));
    for (const [name, hex] of Object.entries(await response.json())) tables.set(name, parse(hex));
  } catch {
    // grey is a colour map too
  }
}

/** @param {string} hex  256 × red, green, blue */
function parse(hex) {
  /** @param {number} i */
  const byte = (i) => Number.parseInt(hex.slice(i, i + 2), 16);
  return Uint8Array.from({ length: 1_024 }, (_, i) => (i % 4 === 3 ? 255 : byte(6 * (i >> 2) + 2 * (i % 4))));
}

/**
 * The table of a colour map. A table is returned as it is.
 * @param {Colormap} colours
 * @returns {Table}
 */
export const colourTable = (colours) => (typeof colours === "string" ? (tables.get(colours) ?? grey) : colours);

/**
 * A table of one colour: transparent at 0, of the opacity `most` at 1.
 * @param {readonly [red: number, green: number, blue: number]} colour
 * @param {number} [most]  0 to 1
 * @returns {Table}
 */
export const tint = ([red, green, blue], most = 1) =>
  Uint8Array.from({ length: 1_024 }, (_, i) => [red, green, blue, Math.round(most * (i >> 2))][i % 4]);

/**
 * The CSS colour at a share of 0 to 1.
 * @param {Colormap} colours
 * @param {number} share
 */
export function cssColour(colours, share) {
  const at = 4 * Math.round(255 * Math.min(Math.max(share, 0), 1));
  const [red, green, blue, opacity] = colourTable(colours).subarray(at, at + 4);
  return opacity === 255
    ? `rgb(${red}, ${green}, ${blue})`
    : `rgb(${red} ${green} ${blue} / ${(opacity / 255).toFixed(3)})`;
}

/**
 * Fill a canvas with the whole map: from left to right, or upwards where the canvas is higher than it is wide.
 * @param {HTMLCanvasElement} canvas
 * @param {Colormap} colours
 */
export function drawLegend(canvas, colours) {
  const context = context2d(canvas);
  const { width, height } = canvas;
  const gradient =
    height > width ? context.createLinearGradient(0, height, 0, 0) : context.createLinearGradient(0, 0, width, 0);
  for (let i = 0; i <= 32; i += 1) gradient.addColorStop(i / 32, cssColour(colours, i / 32));
  context.clearRect(0, 0, width, height);
  context.fillStyle = gradient;
  context.fillRect(0, 0, width, height);
}
