// Matrices as pictures. One hidden WebGL2 context serves the whole page; where there is no graphics card, the same picture
// is made by the processor.

import * as plain from "./plain.js";
import { webgl } from "./webgl.js";

export { css, legend, NAMES, ready, tint } from "./colours.js";

const WHOLE = { left: 0, right: 1, bottom: 0, top: 1 };

let card; // undefined until first needed, null where there is none

/**
 * Paint a Matrix over a whole canvas, whose width and height in device pixels are the caller's; row 0 is at the bottom.
 * `colours`: name of a colour map or a table (see colours.js). `min`, `max`: values of the first and the last colour.
 * `region`: the part to paint as shares of the matrix; what lies beyond the matrix is transparent.
 * `smooth`: interpolate between values where they are larger than a pixel. Where they are smaller, a pixel is their mean.
 */
export function paint(canvas, matrix, { colours, min, max, region = WHOLE, smooth = false }) {
  if (!canvas.width || !canvas.height || !matrix.columns || !matrix.rows) return;
  if (card === undefined) card = webgl(); // null is an answer too
  const painter = card?.works ? card : plain;
  painter.paint(canvas, matrix, { colours, min, max, region, smooth });
}

/** Give back what is kept for a matrix before it is gone by itself. */
export function forget(matrix) {
  card?.forget(matrix);
  plain.forget(matrix);
}
