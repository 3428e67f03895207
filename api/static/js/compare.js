// Two results side by side: predictions, spectrograms, and the feature map of each stage.

import { confidenceBars } from "./charts.js";
import { fullScaleOf, spectrogramScale } from "./decibels.js";
import { button, find, h } from "./dom.js";
import { className, percent } from "./format.js";
import { library } from "./library.js";
import { paint, ready } from "./paint/painter.js";
import { settings } from "./settings.js";
import { answerText } from "./verdict.js";

/** @import { ModelCard, Result } from "./types.js" */
/** @import { Matrix } from "./matrix.js" */
/** @import { Sound } from "./library.js" */

/**
 * @typedef {Sound & {result: Result}} Classified  a sound with a result
 *
 * @typedef {object} Figure
 * @property {string} title
 * @property {HTMLCanvasElement} canvas
 * @property {Matrix} matrix
 * @property {number | null} fullScale  dB of 0 dBFS, of a spectrogram; null for a map
 */

const CLASSES = 5;

/**
 * @param {Sound | null} sound
 * @returns {sound is Classified}
 */
const isClassified = (sound) => Boolean(sound?.result);

/**
 * @param {HTMLElement} root
 * @param {ReadonlyMap<string, ModelCard>} cards  by model name
 */
export function mountCompare(root, cards) {
  /** @type {Sound | null} */
  let left = null;
  /** @type {Result | null} */
  let leftResult = null; // as it was drawn
  /** @type {Classified | null} */
  let right = null;
  let open = false;
  library.on("list", refresh);
  library.on("change", (sound) => {
    if (sound.ended) refresh();
  });
  settings.on("change", (key) => {
    if (open && ["soundColours", "mapColours", "range", "loudest"].includes(key)) refresh();
  });

  /** @param {Sound} sound */
  function show(sound) {
    if (left === sound && sound.result === leftResult) return;
    left = sound;
    refresh();
  }

  function refresh() {
    leftResult = left?.result ?? null;
    const others = library.sounds.filter((sound) => sound !== left).filter(isClassified);
    if (!isClassified(left) || others.length === 0) {
      root.replaceChildren();
      return;
    }
    const other = right && others.includes(right) ? right : others[0];
    right = other;
    const toggle = button(
      open ? "Close" : "Compare",
      open ? "close" : "compare",
      () => {
        open = !open;
        refresh();
        find(root, "header button")?.focus();
      },
      { "aria-expanded": String(open) },
    );
    const select = h(
      "select",
      {
        "aria-label": "Compare with",
        on: {
          change: () => {
            right = others[select.selectedIndex];
            refresh();
            find(root, "select")?.focus();
          },
        },
      },
      others.map((sound) => h("option", { text: `${sound.name} (${sound.result.model})`, selected: sound === other })),
    );
    const figures = open ? [left, other].map(({ result }) => figuresOf(result, cards)) : [];
    root.replaceChildren(
      h(
        "section",
        { class: "panel compare", "aria-label": "Compare two results" },
        h(
          "header",
          {},
          h("h2", { text: open ? "Side by side with" : "Compare with" }),
          select,
          h("div", { class: "tools" }, toggle),
        ),
        open ? h("div", { class: "sides" }, side(left, figures[0]), side(other, figures[1])) : null,
        open ? h("p", { class: "muted", text: difference(left.result, other.result) }) : null,
      ),
    );
    if (open) ready.then(() => paintFigures(figures));
  }

  return { show };
}

/**
 * How two predictions differ, in a sentence.
 * @param {Result} left
 * @param {Result} right
 */
function difference(left, right) {
  const [a, b] = [left.predictions[0], right.predictions[0]];
  if (a.class === b.class) {
    const points = Math.round(100 * Math.abs(a.confidence - b.confidence));
    return `Both are classified as ${className(a.class)}; the confidences differ by ${points} percentage points.`;
  }
  /** @type {(place: string, result: Result, name: string) => string} */
  const other = (place, { predictions }, name) => {
    const found = predictions.find((one) => one.class === name);
    return found
      ? `the ${place} result has ${className(name)} at ${percent(found.confidence, 1)}`
      : `the model of the ${place} result does not have the class ${className(name)}`;
  };
  return `The classes differ: ${other("right", right, a.class)}; ${other("left", left, b.class)}.`;
}

/**
 * @param {Classified} sound
 * @param {Figure[]} figures
 */
function side({ name, result }, figures) {
  return h(
    "div",
    { class: "side" },
    h("h3", { text: name }),
    h("p", { text: answerText(result) }),
    h("p", { class: "muted", text: result.model }),
    confidenceBars(result.predictions.slice(0, CLASSES)),
    figures.map(({ title, canvas }) => h("figure", {}, h("figcaption", { text: title }), canvas)),
  );
}

/**
 * The spectrogram and the map of each stage.
 * @param {Result} result
 * @param {ReadonlyMap<string, ModelCard>} cards
 * @returns {Figure[]}
 */
function figuresOf(result, cards) {
  /** @type {(title: string, matrix: Matrix, fullScale?: number | null) => Figure} */
  const figure = (title, matrix, fullScale = null) => {
    const height = fullScale === null ? 80 : 160;
    return { title, matrix, fullScale, canvas: h("canvas", { width: 512, height, role: "img", "aria-label": title }) };
  };
  const fullScale = fullScaleOf(cards.get(result.model)?.frontend);
  const stages = [...result.maps].filter(([layer]) => !layer.includes("."));
  const spectrogram = result.spectrogram ? [figure("Log-mel spectrogram", result.spectrogram, fullScale)] : [];
  return [...spectrogram, ...stages.map(([layer, matrix]) => figure(layer, matrix))];
}

/**
 * Spectrograms have the colour scale of the sound panel; the maps of one layer share theirs where both results have it.
 * @param {Figure[][]} sides
 */
function paintFigures(sides) {
  for (const { title, canvas, matrix, fullScale } of sides.flat()) {
    if (fullScale !== null) {
      paint(canvas, matrix, { ...spectrogramScale(fullScale), smooth: true });
      continue;
    }
    const pair = sides.flat().filter((one) => one.title === title);
    const statistics = pair.map((one) => one.matrix.statistics);
    const max = Math.max(...statistics.map((one) => one.max));
    const min = Math.min(...statistics.map((one) => one.min));
    paint(canvas, matrix, { colours: settings.get("mapColours"), min, max, smooth: true });
  }
}
