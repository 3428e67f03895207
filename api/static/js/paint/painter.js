// Paints matrices as images. One hidden WebGL2 context serves the whole page; without a GPU, the CPU paints the same image.

import * as cpu from "./cpu.js";
import { createWebGLPainter } from "./webgl.js";

/** @import { ColourScale, MatrixRegion, PaintOptions } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */

export { cssColour, drawLegend, NAMES, ready, tint } from "./colormaps.js";

/** @typedef {{paint(canvas: HTMLCanvasElement, matrix: Matrix, options: PaintOptions): void}} Painter */

const WHOLE = { left: 0, right: 1, bottom: 0, top: 1 };

/** Undefined until first needed, null without a GPU. @type {ReturnType<typeof createWebGLPainter> | undefined} */
let gpu;

/**
 * Paint a matrix over a whole canvas, whose width and height in device pixels the caller has set; row 0 is at the bottom.
 * Values smaller than a pixel are averaged.
 * @param {HTMLCanvasElement} canvas
 * @param {Matrix} matrix
 * @param {ColourScale & {region?: MatrixRegion, smooth?: boolean}} options
 *   region: the part to paint; what lies beyond the matrix is transparent.
 *   smooth: interpolate between values that are larger than a pixel.
 */
export function paint(canvas, matrix, { colours, min, max, region = WHOLE, smooth = false }) {
  if (!canvas.width || !canvas.height || !matrix.columns || !matrix.rows) return;
  if (gpu === undefined) gpu = createWebGLPainter();
  /** @type {Painter} */
  const painter = gpu?.works ? gpu : cpu;
  painter.paint(canvas, matrix, { colours, min, max, region, smooth });
}
