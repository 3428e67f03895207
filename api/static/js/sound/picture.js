// The spectrogram as a PNG that stands for itself: title, axes and scale.

import { downloadCanvas, h } from "../dom.js";
import { className, percent } from "../format.js";
import { legend } from "../paint/painter.js";
import { settings } from "../settings.js";
import { viewport } from "../viewport.js";
import { inks, timeAxis, valueAxis } from "./ink.js";
import { frequencyTicks, timeTicks } from "./scale.js";
import { camTable, paintCam, paintSound } from "./spectrogram.js";

const SCALE = 2; // pixels for one of the numbers below
const [WIDTH, HEIGHT] = [960, 300]; // of the picture alone
const [LEFT, TOP, RIGHT, BOTTOM] = [70, 58, 24, 66];

/** Save what is on show. `cam`: see spectrogram.js, or null. */
export function savePicture(sound, card, spectrum, cam) {
  const page = h("canvas", { width: SCALE * (LEFT + WIDTH + RIGHT), height: SCALE * (TOP + HEIGHT + BOTTOM) });
  const part = h("canvas", { width: SCALE * WIDTH, height: SCALE * HEIGHT });
  const context = page.getContext("2d");
  const ink = inks();
  const { text, muted, panel, font } = ink;
  context.fillStyle = panel;
  context.fillRect(0, 0, page.width, page.height);
  for (const painted of [() => paintSound(part, spectrum), cam && (() => paintCam(part, cam))].filter(Boolean)) {
    painted();
    context.drawImage(part, SCALE * LEFT, SCALE * TOP);
  }

  context.scale(SCALE, SCALE);
  const [first] = sound.result.predictions;
  Object.assign(context, { fillStyle: text, font: `600 17px ${font}`, textBaseline: "alphabetic" });
  context.fillText(sound.name, LEFT, 26, WIDTH);
  Object.assign(context, { fillStyle: muted, font: `13px ${font}` });
  const heard = `${className(first.class)}, ${percent(first.confidence, 1)}`;
  context.fillText(`${heard} · model ${card.name} · log-mel spectrogram`, LEFT, 46, WIDTH);

  context.save();
  context.translate(0, TOP);
  valueAxis(context, frequencyTicks(viewport.low, viewport.high, HEIGHT, card.frontend), LEFT, HEIGHT, ink, 12);
  context.restore();
  context.save();
  context.translate(LEFT, TOP + HEIGHT);
  timeAxis(context, timeTicks(viewport.start, viewport.end, WIDTH), WIDTH, ink, 12);
  context.restore();

  const colours = settings.get("soundColours");
  scale(context, LEFT, colours, [`−${settings.get("range")} dB`, "0 dB, the loudest"], ink);
  if (cam) scale(context, LEFT + 400, camTable(colours), ["", `what spoke for ${className(first.class)}`], ink);
  downloadCanvas(page, `${sound.name.replace(/\.[^.]+$/, "")} spectrogram.png`);
}

function scale(context, left, colours, [low, high], { muted, line, font }) {
  const bar = h("canvas", { width: 160 * SCALE, height: 10 * SCALE });
  legend(bar, colours);
  const top = TOP + HEIGHT + 38;
  Object.assign(context, { fillStyle: muted, font: `12px ${font}`, textBaseline: "middle", strokeStyle: line });
  context.fillText(low, left, top + 5);
  const at = left + (low ? context.measureText(low).width + 8 : 0);
  context.drawImage(bar, at, top, 160, 10);
  context.strokeRect(at, top, 160, 10);
  context.fillText(high, at + 168, top + 5);
}
