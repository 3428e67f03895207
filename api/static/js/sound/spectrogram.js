// The log-mel spectrogram with its axes, the class activation over it, and the highlighted region.

import { spectrogramScale } from "../decibels.js";
import { context2d, h } from "../dom.js";
import { formatDbfs, formatHertz, noteName } from "../format.js";
import { highlight } from "../highlight.js";
import { paint, tint } from "../paint/painter.js";
import { settings } from "../settings.js";
import { viewport } from "../viewport.js";
import { frequencyAt, frequencyTicks, matrixRegion } from "./axes.js";
import { createCanvas, fitToBox } from "./canvas.js";
import { cover, plot } from "./plot.js";
import { t } from "../words.js";

/** @import { ModelCard, PlacedCam, PlacedSpectrogram, SoundRegion } from "../types.js" */
/** @import { Table } from "../paint/colormaps.js" */
/** @import { Brush } from "./plot.js" */

/** For each colour map a hue that it does not contain. @type {Record<string, [number, number, number]>} */
const HUES = { magma: [70, 235, 255], grey: [255, 150, 40], viridis: [255, 70, 110], cividis: [255, 60, 90] };
/** @type {Map<string, Table>} */
const camTables = new Map();

/**
 * The colours of the class activation over a spectrogram in those colours.
 * @param {string} colours
 * @returns {Table}
 */
export function camColours(colours) {
  const table = camTables.get(colours) ?? tint(HUES[colours] ?? HUES.grey, 0.8);
  camTables.set(colours, table);
  return table;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {PlacedSpectrogram} spectrogram
 * @param {SoundRegion} [region]
 */
export function paintSpectrogram(canvas, spectrogram, region = viewport) {
  paint(canvas, spectrogram.matrix, {
    ...spectrogramScale(spectrogram.fullScale),
    region: matrixRegion(spectrogram, region),
    smooth: true,
  });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {PlacedCam} cam
 * @param {SoundRegion} [region]
 */
export function paintCam(canvas, { matrix, start, seconds }, region = viewport) {
  /** @param {number} time */
  const share = (time) => (time - start) / seconds;
  paint(canvas, matrix, {
    colours: camColours(settings.get("soundColours")),
    min: 0,
    max: 1,
    smooth: true,
    region: { left: share(region.start), right: share(region.end), bottom: region.low, top: region.high },
  });
}

/**
 * {element, draw(spectrogram, cam, card), showMessage(text), setLabel(text)}.
 * @param {string} describedBy  id of the text that explains the pointer and the keys
 * @param {Brush & {element: HTMLElement, draw: () => void}} brush  with the element that it shows over the picture
 */
export function spectrogramPlot(describedBy, brush) {
  /** @type {{spectrogram: PlacedSpectrogram, card: ModelCard} | null} */
  let shown = null;
  const reading = h("output", { class: "reading number", "aria-live": "off" }); // the value under the pointer
  /** @param {{x: number, y: number} | null} point */
  const onHover = (point) => (reading.textContent = read(point) ?? "");
  const view = plot({ label: t("network.spectrogram"), describedBy, name: "spectrogram", hasFrequency: true, onHover, brush });
  const camLayer = createCanvas({ class: "image", "aria-hidden": "true" });
  const outline = h("div", { class: "highlight", hidden: true });
  const message = h("p", { class: "state" });
  view.canvas.after(camLayer);
  view.overlay.prepend(outline, brush.element);
  view.stage.append(message, reading);

  highlight.on("change", drawHighlight);

  function drawHighlight() {
    const region = shown ? highlight.region : null;
    outline.hidden = !region;
    if (region) cover(outline, region, true);
  }

  /** @param {{x: number, y: number} | null} point  shares of width and height */
  function read(point) {
    if (!point || !shown) return null;
    const { spectrogram, card } = shown;
    const { matrix, start, step, fullScale } = spectrogram;
    const time = viewport.timeAt(point.x);
    const share = viewport.low + point.y * (viewport.high - viewport.low);
    const column = Math.round((time - start) / step);
    const row = Math.min(Math.floor(share * matrix.rows), matrix.rows - 1);
    const frequency = frequencyAt(share, card.frontend);
    const note = noteName(frequency);
    const place = `${time.toFixed(2)} s · ${formatHertz(frequency)}${note ? ` (${note})` : ""}`;
    if (column < 0 || column >= matrix.columns) return place;
    return `${place} · ${formatDbfs(matrix.at(row, column) - fullScale)}`;
  }

  /**
   * @param {PlacedSpectrogram | null} spectrogram
   * @param {PlacedCam | null} cam
   * @param {ModelCard | null} card
   */
  function draw(spectrogram, cam, card) {
    shown = spectrogram && card ? { spectrogram, card } : null;
    view.draw((height) => (shown ? frequencyTicks(viewport.low, viewport.high, height, shown.card.frontend) : []));
    if (!fitToBox(view.canvas)) return;
    if (spectrogram) paintSpectrogram(view.canvas, spectrogram);
    else context2d(view.canvas).clearRect(0, 0, view.canvas.width, view.canvas.height);
    camLayer.hidden = !cam;
    if (cam && fitToBox(camLayer)) paintCam(camLayer, cam);
    drawHighlight();
    brush.draw();
  }

  return {
    element: view.element,
    draw,
    /**
     * Show a text in place of the image.
     * @param {string} text  empty: none
     */
    showMessage(text) {
      message.textContent = text;
      message.hidden = !text;
      if (text) view.canvas.setAttribute("aria-label", text);
    },
    /**
     * Set what screen readers say of the image.
     * @param {string} text
     */
    setLabel: (text) => view.canvas.setAttribute("aria-label", text),
  };
}
