// What a residual block computes, with its own maps: input, residual, shortcut and sum.

import { h } from "../dom.js";
import { formatNumber } from "../format.js";
import { meanMatrix, valueRange } from "../matrix.js";
import { drawLegend } from "../paint/painter.js";
import { diverging, scaledMap } from "./colour-scale.js";
import { projectionText } from "./descriptions.js";
import { inputOf } from "./graph.js";
import { MatrixCanvas } from "./matrix-canvas.js";

/** @import { ScaledMatrix } from "../types.js" */
/** @import { Matrix } from "../matrix.js" */
/** @import { Network, NetworkNode } from "./graph.js" */

/**
 * {element, show(channels, channel), close()}.
 * @param {NetworkNode} node
 * @param {Network} network
 */
export function residualBlock(node, network) {
  const input = inputOf(network, node);
  const identity = node.shortcut === "identity";
  const terms = {
    input: term(
      "Input",
      identity ? "The output of the layer before." : `The layer before: the mean of its ${input.shape[0]} channels.`,
    ),
    residual: term("Residual", "What two convolutions add: amber raises a cell, blue lowers it."),
    shortcut: term(
      "Shortcut",
      identity
        ? "The input again, unchanged."
        : `The shapes differ, so this is a projection: a 1 × 1 convolution ` +
            `brings the input to ${projectionText(node, input)}.`,
    ),
    sum: term("Sum", "Residual plus shortcut, with negative values set to zero."),
  };
  const legend = h("canvas", { width: 160, height: 8, "aria-hidden": "true" });
  const [low, high] = [h("span"), h("span")];
  const scale = h(
    "p",
    { class: "scale number", hidden: true },
    low,
    legend,
    high,
    h("span", { class: "muted", text: identity ? "the same for all four" : "the same for all but the input" }),
  );
  const note = h("p", { class: "muted" });
  const element = h(
    "section",
    { class: "residual-block", "aria-label": "What this block computes" },
    h("h4", { text: "What this block computes" }),
    h(
      "div",
      { class: "terms" },
      terms.input.element,
      operator("→", "leads to"),
      terms.residual.element,
      operator("+", "plus"),
      terms.shortcut.element,
      operator("=", "equals"),
      terms.sum.element,
    ),
    scale,
    note,
  );

  /** @type {(title: string, text: string) => {element: HTMLElement, image: MatrixCanvas, empty: HTMLElement}} */
  function term(title, text) {
    const image = new MatrixCanvas(network.axes);
    const empty = h("span", { class: "empty muted", text: "not loaded" });
    image.element.append(empty);
    return {
      element: h("figure", {}, h("b", { text: title }), image.element, h("figcaption", { text })),
      image,
      empty,
    };
  }

  /**
   * @param {keyof typeof terms} name
   * @param {ScaledMatrix | null} scaled
   */
  function paint(name, scaled) {
    const { image, empty } = terms[name];
    empty.hidden = Boolean(scaled);
    if (scaled) image.show(scaled);
  }

  /**
   * @param {Map<string, Matrix[]> | null} channels  see fetch-channels.js; null: not fetched
   * @param {number | null} channel  null: the mean over all channels
   */
  function show(channels, channel) {
    const residual = channels?.get(`${node.id}.residual`);
    const shortcut = channels?.get(`${node.id}.shortcut`);
    const sum = channels?.get(node.id);
    scale.hidden = true;
    if (!residual || !shortcut || !sum) {
      paint("input", scaledMap(input, network));
      paint("sum", scaledMap(node, network));
      note.textContent = "Show all channels to see residual and shortcut.";
      return;
    }
    scale.hidden = false;
    /** @param {Matrix[]} matrices */
    const chosen = (matrices) => (channel === null ? meanMatrix(matrices) : matrices[channel]);
    const maps = { residual: chosen(residual), shortcut: chosen(shortcut), sum: chosen(sum) };
    const { min, max } = valueRange(Object.values(maps));
    const end = Math.max(Math.abs(min), Math.abs(max));
    /**
     * @param {Matrix} matrix
     * @returns {ScaledMatrix}
     */
    const scaled = (matrix) => ({ matrix, colours: diverging, min: -end, max: end });
    paint("residual", scaled(maps.residual));
    paint("shortcut", scaled(maps.shortcut));
    paint("sum", scaled(maps.sum));
    paint("input", identity ? scaled(maps.shortcut) : scaledMap(input, network));
    drawLegend(legend, diverging);
    [low.textContent, high.textContent] = [formatNumber(-end), `+${formatNumber(end)}`];
    const ratio = rootMeanSquare(residual) / rootMeanSquare(shortcut);
    note.textContent = [
      `${channel === null ? "Means over all channels" : `Channel ${channel}`}.`,
      Number.isFinite(ratio)
        ? `Over all channels, the residual is ${formatNumber(Number(ratio.toPrecision(2)))} times as strong as the shortcut ` +
          "(root mean square)."
        : "",
      channel === null
        ? "Negative values are set to zero in each channel, before the mean is taken, so this sum can be brighter than its " +
          "parts; a single channel adds up exactly."
        : "",
    ].join(" ");
  }

  return { element, show, close: () => Object.values(terms).forEach(({ image }) => image.close()) };
}

/**
 * @param {string} symbol
 * @param {string} text  for screen readers
 */
const operator = (symbol, text) =>
  h(
    "span",
    { class: "operator" },
    h("span", { "aria-hidden": "true", text: symbol }),
    h("span", { class: "visually-hidden", text }),
  );

/** Over all cells of all matrices. @param {Matrix[]} matrices */
function rootMeanSquare(matrices) {
  let sum = 0;
  let count = 0;
  for (const { values } of matrices) {
    for (const value of values) sum += value * value;
    count += values.length;
  }
  return Math.sqrt(sum / count);
}
