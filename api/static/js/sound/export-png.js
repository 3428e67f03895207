// Saves the visible region of the spectrogram as a PNG file with title, axes and colour scale.

import { context2d, downloadCanvas, h } from "../view/dom.js";
import { className, formatDbfs } from "../view/format.js";
import { drawLegend } from "../paint/painter.js";
import { settings } from "../state/settings.js";
import { answerText } from "../result/verdict.js";
import { viewport } from "../state/viewport.js";
import { frequencyTicks, timeTicks } from "./axes.js";
import { drawTimeAxis, drawValueAxis, themeColours } from "./canvas.js";
import { camColours, paintCam, paintFine, paintSpectrogram } from "./spectrogram.js";
import { t } from "../words.js";

/** @import { Colormap, ModelCard, PlacedCam, PlacedSpectrogram, Result } from "../server/types.js" */
/** @import { ThemeColours } from "./canvas.js" */
/** @import { FinePicture } from "./fine.js" */

const SCALE = 2; // pixels for one of the units below
const [WIDTH, HEIGHT] = [960, 300]; // of the spectrogram alone
const [LEFT, TOP, RIGHT, BOTTOM] = [70, 58, 24, 66]; // margins

/**
 * @param {string} name  of the sound
 * @param {Result} result
 * @param {ModelCard} card
 * @param {(PlacedSpectrogram | null)[]} spectrograms  one over the other
 * @param {FinePicture | null} fine  painted over it
 * @param {PlacedCam | null} cam  painted over both
 */
export function exportSpectrogram(name, result, card, spectrograms, fine, cam) {
  const page = h("canvas", { width: SCALE * (LEFT + WIDTH + RIGHT), height: SCALE * (TOP + HEIGHT + BOTTOM) });
  const layer = h("canvas", { width: SCALE * WIDTH, height: SCALE * HEIGHT });
  const context = context2d(page);
  const theme = themeColours();
  const { text, muted, panel, font } = theme;
  context.fillStyle = panel;
  context.fillRect(0, 0, page.width, page.height);
  for (const spectrogram of spectrograms) {
    if (!spectrogram) continue;
    paintSpectrogram(layer, spectrogram);
    context.drawImage(layer, SCALE * LEFT, SCALE * TOP);
  }
  if (fine) {
    paintFine(layer, fine);
    context.drawImage(layer, SCALE * LEFT, SCALE * TOP);
  }
  if (cam) {
    paintCam(layer, cam);
    context.drawImage(layer, SCALE * LEFT, SCALE * TOP);
  }

  context.scale(SCALE, SCALE);
  Object.assign(context, { fillStyle: text, font: `600 17px ${font}`, textBaseline: "alphabetic" });
  context.fillText(name, LEFT, 26, WIDTH);
  Object.assign(context, { fillStyle: muted, font: `13px ${font}` });
  context.fillText(t("png.subtitle", { answer: answerText(result), model: card.name }), LEFT, 46, WIDTH);

  context.save();
  context.translate(0, TOP);
  drawValueAxis(context, frequencyTicks(viewport.low, viewport.high, HEIGHT, viewport.axis), LEFT, HEIGHT, theme, 12);
  context.restore();
  context.save();
  context.translate(LEFT, TOP + HEIGHT);
  drawTimeAxis(context, timeTicks(viewport.start, viewport.end, WIDTH), WIDTH, theme, 12);
  context.restore();

  const colours = settings.get("soundColours");
  const [low, high] = [-settings.get("range"), -settings.get("loudest")];
  drawScale(context, LEFT, colours, [formatDbfs(low, 0), formatDbfs(high, 0)], theme);
  if (cam) {
    const label = t("png.cam", { class: className(result.camClass) });
    drawScale(context, LEFT + 400, camColours(colours), ["", label], theme);
  }
  downloadCanvas(page, `${name.replace(/\.[^.]+$/, "")} spectrogram.png`);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} left
 * @param {Colormap} colours
 * @param {[low: string, high: string]} labels
 * @param {ThemeColours} theme
 */
function drawScale(context, left, colours, [low, high], { muted, line, font }) {
  const bar = h("canvas", { width: 160 * SCALE, height: 10 * SCALE });
  drawLegend(bar, colours);
  const top = TOP + HEIGHT + 38;
  Object.assign(context, { fillStyle: muted, font: `12px ${font}`, textBaseline: "middle", strokeStyle: line });
  context.fillText(low, left, top + 5);
  const x = left + (low ? context.measureText(low).width + 8 : 0);
  context.drawImage(bar, x, top, 160, 10);
  context.strokeRect(x, top, 160, 10);
  context.fillText(high, x + 168, top + 5);
}
