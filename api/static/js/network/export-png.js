// Saves a feature map as a PNG file with its title, axes and colour scale.

import { context2d, downloadCanvas, h } from "../view/dom.js";
import { drawLegend, paint } from "../paint/painter.js";
import { frequencyTicks, timeTicks } from "./axes.js";
import { valueText } from "./colour-scale.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { MapAxes } from "./graph.js" */

const [WIDTH, HEIGHT] = [1_200, 420]; // of the map, px
const [LEFT, TOP, RIGHT, BOTTOM] = [90, 70, 40, 110]; // margins, px

/**
 * @param {{scaled: ScaledMatrix, title: string}} map
 * @param {MapAxes} axes
 * @param {string} subject  what the map belongs to
 */
export function exportMap({ scaled, title }, axes, subject) {
  const canvas = h("canvas", { width: LEFT + WIDTH + RIGHT, height: TOP + HEIGHT + BOTTOM });
  const image = h("canvas", { width: WIDTH, height: HEIGHT });
  paint(image, scaled.matrix, scaled);
  const context = context2d(canvas);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, LEFT, TOP);
  write(context, title, LEFT, 32, "bold 22px");
  write(context, subject, LEFT, 56, "16px");
  for (const { at, text } of timeTicks(axes)) {
    context.fillRect(LEFT + at * WIDTH, TOP + HEIGHT, 1, 6);
    write(context, text, LEFT + at * WIDTH, TOP + HEIGHT + 24, "16px", "center");
  }
  for (const { at, text } of frequencyTicks(axes)) {
    context.fillRect(LEFT - 6, TOP + (1 - at) * HEIGHT, 6, 1);
    write(context, text, LEFT - 10, TOP + (1 - at) * HEIGHT + 5, "16px", "right");
  }
  const legend = h("canvas", { width: 300, height: 14 });
  drawLegend(legend, scaled.colours);
  const below = TOP + HEIGHT + 62;
  context.drawImage(legend, LEFT + 80, below);
  write(context, valueText(scaled, scaled.min), LEFT + 70, below + 13, "16px", "right");
  write(context, valueText(scaled, scaled.max), LEFT + 390, below + 13, "16px");
  downloadCanvas(canvas, `${subject} ${title}.png`.replace(/[^\p{L}\p{N}._ -]/gu, "").replaceAll(" ", "-"));
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} font  weight and size
 * @param {CanvasTextAlign} [align]
 */
function write(context, text, x, y, font, align = "left") {
  context.font = `${font} system-ui, "DejaVu Sans", sans-serif`;
  context.textAlign = align;
  context.fillStyle = "#222";
  context.fillText(text, x, y);
}
