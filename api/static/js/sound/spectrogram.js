// The log-mel spectrogram with its axes, what spoke for the answer laid over it, and the region that a map's cell hears.

import { hertz } from "../format.js";
import { focus } from "../focus.js";
import { h } from "../dom.js";
import { paint, tint } from "../paint/painter.js";
import { settings } from "../settings.js";
import { viewport } from "../viewport.js";
import { canvas, fit } from "./ink.js";
import { cover, plot } from "./plot.js";
import { frequencyAt, frequencyTicks, regionOf } from "./scale.js";

// One hue that none of the colours below it has.
const HUES = { magma: [70, 235, 255], grey: [255, 150, 40], viridis: [255, 70, 110], cividis: [255, 60, 90] };
export const camTable = (colours) => (camTable[colours] ??= tint(HUES[colours] ?? HUES.grey, 0.8));

/** {min, max} in dB of the first and the last colour. */
export function levels(matrix) {
  const { max } = matrix.statistics;
  return { min: max - settings.get("range"), max };
}

/** Paint a spectrogram and, where `cam` is given, what spoke for the answer; each has a canvas, which may be one. */
export function paintSound(canvas, spectrum, region = viewport) {
  const colours = settings.get("soundColours");
  paint(canvas, spectrum.matrix, {
    colours,
    ...levels(spectrum.matrix),
    region: regionOf(spectrum, region),
    smooth: true,
  });
}

export function paintCam(canvas, { matrix, start, seconds }, region = viewport) {
  const share = (time) => (time - start) / seconds;
  paint(canvas, matrix, {
    colours: camTable(settings.get("soundColours")),
    min: 0,
    max: 1,
    smooth: true,
    region: { left: share(region.start), right: share(region.end), bottom: region.low, top: region.high },
  });
}

/** {element, draw(spectrum, cam, card), say(words), name(words)}. */
export function spectrogram(describe) {
  let shown = null; // {spectrum, card}
  const reading = h("output", { class: "reading number", "aria-live": "off" }); // what is under the pointer
  const onHover = (share) => (reading.textContent = read(share) ?? "");
  const view = plot({ label: "Spectrogram", describe, name: "spectrogram", tall: true, onHover });
  const layer = canvas({ class: "picture", "aria-hidden": "true" });
  const heard = h("div", { class: "heard", hidden: true });
  const words = h("p", { class: "state" });
  view.picture.after(layer);
  view.overlay.prepend(heard);
  view.stage.append(words, reading);

  focus.addEventListener("change", mark);

  function mark() {
    heard.hidden = !focus.region || !shown;
    if (!heard.hidden) cover(heard, focus.region, true);
  }

  function read(share) {
    if (!share || !shown) return null;
    const { spectrum, card } = shown;
    const { matrix, start, step } = spectrum;
    const time = viewport.timeAt(share.x);
    const band = viewport.low + share.y * (viewport.high - viewport.low);
    const column = Math.round((time - start) / step);
    const row = Math.min(Math.floor(band * matrix.rows), matrix.rows - 1);
    const place = `${time.toFixed(2)} s · ${hertz(frequencyAt(band, card.frontend))}`;
    if (column < 0 || column >= matrix.columns) return place;
    const below = matrix.at(row, column) - matrix.statistics.max;
    return `${place} · ${below > -0.05 ? "0" : below.toFixed(1).replace("-", "−")} dB`;
  }

  function draw(spectrum, cam, card) {
    shown = spectrum ? { spectrum, card } : null;
    view.draw((height) => (spectrum ? frequencyTicks(viewport.low, viewport.high, height, card.frontend) : []));
    if (!fit(view.picture)) return;
    if (spectrum) paintSound(view.picture, spectrum);
    else view.picture.getContext("2d").clearRect(0, 0, view.picture.width, view.picture.height);
    layer.hidden = !cam;
    if (cam && fit(layer)) paintCam(layer, cam);
    mark();
  }

  return {
    element: view.element,
    draw,
    /** Words in place of the picture; none when there is one. */
    say(text) {
      words.textContent = text;
      words.hidden = !text;
      if (text) view.picture.setAttribute("aria-label", text);
    },
    /** What screen readers say of the picture. */
    name: (text) => view.picture.setAttribute("aria-label", text),
  };
}
