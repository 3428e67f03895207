// The spectrogram with its axes, the class activation over it, the highlighted region, and what the model does not hear.

import { spectrogramScale } from "../signal/decibels.js";
import { announce, context2d, h } from "../view/dom.js";
import { fixed, formatDbfs, formatHertz, noteName } from "../view/format.js";
import { highlight } from "../state/highlight.js";
import { paint, tint } from "../paint/painter.js";
import { playhead } from "../state/playhead.js";
import { settings } from "../state/settings.js";
import { viewport } from "../state/viewport.js";
import { frequencyTicks, matrixRegion } from "./axes.js";
import { createCanvas, fitToBox } from "./canvas.js";
import { onScale } from "./frequency-axis.js";
import { cover, plot } from "./plot.js";
import { t } from "../words.js";

/** @import { PlacedCam, PlacedSpectrogram, SoundRegion } from "../server/types.js" */
/** @import { Region } from "../edit/region.js" */
/** @import { Table } from "../paint/colormaps.js" */
/** @import { FinePicture } from "./fine.js" */
/** @import { Brush, Point } from "./plot.js" */

/** @typedef {{spectrogram: PlacedSpectrogram, detail: PlacedSpectrogram | null, fine: FinePicture | null}} Shown */

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
  const placed = { ...spectrogram, ...onScale(spectrogram, viewport.axis.scale) };
  paint(canvas, placed.matrix, {
    ...spectrogramScale(spectrogram.fullScale),
    region: matrixRegion(placed, inHertz(region)),
    smooth: true,
  });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {FinePicture} fine
 */
export function paintFine(canvas, { matrix, region: { start, end, low, high } }) {
  /** @param {number} time */
  const across = (time) => (time - start) / (end - start);
  /** @param {number} share */
  const up = (share) => (share - low) / (high - low);
  const region = { left: across(viewport.start), right: across(viewport.end), bottom: up(viewport.low), top: up(viewport.high) };
  paint(canvas, matrix, { ...spectrogramScale(0), region, smooth: true });
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {PlacedCam} cam
 * @param {SoundRegion} [region]
 */
export function paintCam(canvas, { start, seconds, ...rows }, region = viewport) {
  const { matrix, axis } = onScale(rows, viewport.axis.scale);
  /** @param {number} time */
  const share = (time) => (time - start) / seconds;
  const { low, high } = inHertz(region);
  paint(canvas, matrix, {
    colours: camColours(settings.get("soundColours")),
    min: 0,
    max: 1,
    smooth: true,
    region: { left: share(region.start), right: share(region.end), bottom: axis.shareOf(low), top: axis.shareOf(high) },
  });
}

/**
 * @param {SoundRegion} region
 * @returns {Region}
 */
const inHertz = ({ start, end, low, high }) => ({
  start,
  end,
  low: viewport.axis.frequencyAt(low),
  high: viewport.axis.frequencyAt(high),
});

/**
 * {element, stage, draw(spectrogram, detail, fine, cam), showMessage(text), setLabel(text)}.
 * @param {string} describedBy  id of the text that explains the pointer and the keys
 * @param {Brush & {element: HTMLElement, draw: () => void}} brush  with the element that it shows over the picture
 */
export function spectrogramPlot(describedBy, brush) {
  /** @type {Shown | null} */
  let shown = null;
  /** The frequency that is measured by the keyboard, in Hz, at the time of the playhead. @type {number | null} */
  let measured = null;
  const reading = h("output", { class: "reading number", "aria-live": "off" }); // the value under the pointer
  /** @param {Point | null} point */
  const onHover = (point) => {
    if (point) measure(null);
    reading.textContent = read(point) ?? "";
  };
  const view = plot({ label: t("network.spectrogram"), describedBy, name: "spectrogram", hasFrequency: true, onHover, brush });
  /** @param {string} name */
  const layer = (name) => createCanvas({ class: "image", "aria-hidden": "true", "data-layer": name });
  const [detailLayer, fineLayer, camLayer] = [layer("detail"), layer("fine"), layer("cam")];
  const outline = h("div", { class: "highlight", hidden: true });
  const level = h("div", { class: "level-line", hidden: true });
  const unheardText = h("span", {});
  const unheard = h("div", { class: "unheard", hidden: true }, unheardText);
  const message = h("p", { class: "state" });
  view.canvas.after(detailLayer, fineLayer, camLayer);
  view.overlay.prepend(outline, level, brush.element);
  view.stage.append(unheard, message, reading);

  highlight.on("change", drawHighlight);
  playhead.on("move", () => {
    if (measured !== null && !playhead.playing) readMeasured();
  });
  view.overlay.addEventListener("blur", () => measure(null));
  view.overlay.addEventListener("keydown", (event) => {
    const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
    if (!by || !event.ctrlKey || event.altKey || event.metaKey || !shown) return;
    event.preventDefault();
    const { low, high, axis } = viewport;
    const share = measured === null ? (low + high) / 2 : axis.shareOf(measured) + (by * (high - low)) / 50;
    measure(axis.frequencyAt(Math.min(Math.max(share, low), high)));
  });

  /** @param {number | null} hertz */
  function measure(hertz) {
    if (measured === null && hertz === null) return;
    measured = hertz;
    readMeasured();
    if (measured !== null) announce(reading.textContent ?? "");
  }

  function readMeasured() {
    const share = measured === null ? -1 : (viewport.axis.shareOf(measured) - viewport.low) / (viewport.high - viewport.low);
    level.hidden = share < 0 || share > 1;
    level.style.bottom = `${100 * share}%`;
    reading.textContent = level.hidden ? "" : (read({ x: viewport.position(playhead.time), y: share }) ?? "");
  }

  function drawHighlight() {
    const region = shown ? highlight.region : null;
    outline.hidden = !region;
    if (!region) return;
    const { axis } = viewport;
    cover(outline, { ...region, low: axis.shareOf(region.low), high: axis.shareOf(region.high) }, true);
  }

  /** Mark the frequencies that the model does not get. */
  function drawUnheard() {
    const { low, high, axis } = viewport;
    const highest = shown?.spectrogram.axis.high ?? axis.high;
    const from = (axis.shareOf(highest) - low) / (high - low);
    unheard.hidden = !shown || axis.high <= highest || from >= 1;
    unheard.style.height = `${100 * (1 - Math.max(from, 0))}%`;
    unheardText.textContent = t("sound.unheard", { frequency: formatHertz(highest) });
  }

  /** @param {Point | null} point  shares of width and height */
  function read(point) {
    if (!point || !shown) return null;
    const time = viewport.timeAt(point.x);
    const share = viewport.low + point.y * (viewport.high - viewport.low);
    const frequency = viewport.axis.frequencyAt(share);
    const note = noteName(frequency);
    const place = `${fixed(time, viewport.end - viewport.start < 1 ? 3 : 2)} s · ${formatHertz(frequency)}${note ? ` (${note})` : ""}`;
    const dbfs = levelAt(shown, time, share, frequency);
    return dbfs === null ? place : `${place} · ${formatDbfs(dbfs)}`;
  }

  /**
   * @param {PlacedSpectrogram | null} spectrogram
   * @param {PlacedSpectrogram | null} detail  of a window, over it
   * @param {FinePicture | null} fine  over both
   * @param {PlacedCam | null} cam
   */
  function draw(spectrogram, detail, fine, cam) {
    shown = spectrogram ? { spectrogram, detail, fine } : null;
    view.draw((height) => (shown ? frequencyTicks(viewport.low, viewport.high, height, viewport.axis) : []));
    if (!fitToBox(view.canvas)) return;
    if (spectrogram) paintSpectrogram(view.canvas, spectrogram);
    else context2d(view.canvas).clearRect(0, 0, view.canvas.width, view.canvas.height);
    detailLayer.hidden = !detail;
    if (detail && fitToBox(detailLayer)) paintSpectrogram(detailLayer, detail);
    fineLayer.hidden = !fine;
    if (fine && fitToBox(fineLayer)) paintFine(fineLayer, fine);
    camLayer.hidden = !cam;
    if (cam && fitToBox(camLayer)) paintCam(camLayer, cam);
    drawHighlight();
    drawUnheard();
    if (measured !== null) readMeasured();
    brush.draw();
  }

  return {
    element: view.element,
    stage: view.stage,
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

/**
 * The level in dBFS that is shown at a place; null where nothing is.
 * @param {Shown} shown
 * @param {number} time       seconds
 * @param {number} share      of the axis of the viewport
 * @param {number} frequency  Hz, the same
 */
function levelAt({ spectrogram, detail, fine }, time, share, frequency) {
  if (fine) {
    const { matrix, region } = fine;
    const row = Math.floor(((share - region.low) / (region.high - region.low)) * matrix.rows);
    const column = Math.floor(((time - region.start) / (region.end - region.start)) * matrix.columns);
    if (row >= 0 && row < matrix.rows && column >= 0 && column < matrix.columns) return matrix.at(row, column);
  }
  return (detail && cellAt(detail, time, frequency)) ?? cellAt(spectrogram, time, frequency);
}

/**
 * @param {PlacedSpectrogram} spectrogram
 * @param {number} time       seconds
 * @param {number} frequency  Hz
 * @returns {number | null} dBFS
 */
function cellAt({ matrix, start, step, axis, fullScale }, time, frequency) {
  const row = Math.floor(axis.shareOf(frequency) * matrix.rows);
  const column = Math.round((time - start) / step);
  if (row < 0 || row > matrix.rows || column < 0 || column >= matrix.columns) return null;
  return matrix.at(Math.min(row, matrix.rows - 1), column) - fullScale;
}
