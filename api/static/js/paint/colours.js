// Colour maps: a share of 0 to 1 becomes a colour. The tables are those of the server's pictures.

export const NAMES = ["magma", "viridis", "cividis", "grey"];

const grey = Uint8Array.from({ length: 1_024 }, (_, i) => (i % 4 === 3 ? 255 : i >> 2));
const tables = new Map([["grey", grey]]);

/** Promise that the tables are loaded. Until then, and should they be missing, everything is grey. */
export const ready = load();

async function load() {
  try {
    const response = await fetch(new URL("../../colormaps.json", import.meta.url));
    for (const [name, hex] of Object.entries(await response.json())) tables.set(name, parse(hex));
  } catch {
    // grey is a colour map too
  }
}

function parse(hex) {
  const digits = (i) => Number.parseInt(hex.slice(i, i + 2), 16);
  return Uint8Array.from({ length: 1_024 }, (_, i) => (i % 4 === 3 ? 255 : digits(6 * (i >> 2) + 2 * (i % 4))));
}

/** The table of a colour map: 256 × red, green, blue, opacity, 0 to 255. A table of one's own is given back as it is. */
export const table = (colours) => (colours instanceof Uint8Array ? colours : (tables.get(colours) ?? grey));

/** A table of one colour, [red, green, blue], that is clear at 0 and has opacity `most` (0 to 1) at 1. */
export const tint = ([red, green, blue], most = 1) =>
  Uint8Array.from({ length: 1_024 }, (_, i) => [red, green, blue, Math.round(most * (i >> 2))][i % 4]);

/** CSS colour at a share of 0 to 1. */
export function css(colours, share) {
  const at = 4 * Math.round(255 * Math.min(Math.max(share, 0), 1));
  const [red, green, blue, opacity] = table(colours).subarray(at, at + 4);
  return opacity === 255
    ? `rgb(${red}, ${green}, ${blue})`
    : `rgb(${red} ${green} ${blue} / ${(opacity / 255).toFixed(3)})`;
}

/** Fill a canvas with the whole map: from left to right, or upwards where the canvas is higher than it is wide. */
export function legend(canvas, colours) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const ends = height > width ? [0, height, 0, 0] : [0, 0, width, 0];
  const gradient = context.createLinearGradient(...ends);
  for (let i = 0; i <= 32; i += 1) gradient.addColorStop(i / 32, css(colours, i / 32));
  context.clearRect(0, 0, width, height);
  context.fillStyle = gradient;
  context.fillRect(0, 0, width, height);
}
