// A map as a picture file: with its name, its axes and what its colours mean.

import { downloadCanvas } from "../dom.js";
import { value } from "../format.js";
import { legend, paint } from "../paint/painter.js";
import { pitchTicks, timeTicks } from "./axes.js";

const [WIDTH, HEIGHT] = [1_200, 420]; // of the map, px
const [LEFT, TOP, RIGHT, BOTTOM] = [90, 70, 40, 110];

/** Save what a map view shows; `about` says of what. */
export function saveMap({ look, title }, axes, about) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM];
  const map = document.createElement("canvas");
  [map.width, map.height] = [WIDTH, HEIGHT];
  paint(map, look.matrix, look);
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(map, LEFT, TOP);
  write(context, title, LEFT, 32, "bold 22px");
  write(context, about, LEFT, 56, "16px");
  for (const { at, text } of timeTicks(axes)) {
    context.fillRect(LEFT + at * WIDTH, TOP + HEIGHT, 1, 6);
    write(context, text, LEFT + at * WIDTH, TOP + HEIGHT + 24, "16px", "center");
  }
  for (const { at, text } of pitchTicks(axes)) {
    context.fillRect(LEFT - 6, TOP + (1 - at) * HEIGHT, 6, 1);
    write(context, text, LEFT - 10, TOP + (1 - at) * HEIGHT + 5, "16px", "right");
  }
  const scale = document.createElement("canvas");
  [scale.width, scale.height] = [300, 14];
  legend(scale, look.colours);
  const below = TOP + HEIGHT + 62;
  context.drawImage(scale, LEFT + 80, below);
  write(context, value(look.min), LEFT + 70, below + 13, "16px", "right");
  write(context, value(look.max), LEFT + 390, below + 13, "16px");
  downloadCanvas(canvas, `${about} ${title}.png`.replace(/[^\p{L}\p{N}._ -]/gu, "").replaceAll(" ", "-"));
}

function write(context, text, x, y, font, align = "left") {
  context.font = `${font} system-ui, "DejaVu Sans", sans-serif`;
  context.textAlign = align;
  context.fillStyle = "#222";
  context.fillText(text, x, y);
}
