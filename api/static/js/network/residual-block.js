// What a residual block computes, with its own maps: input, residual, shortcut and sum.

import { h } from "../view/dom.js";
import { formatNumber } from "../view/format.js";
import { meanMatrix, valueRange } from "../signal/matrix.js";
import { drawLegend } from "../paint/painter.js";
import { diverging, scaledMap } from "./colour-scale.js";
import { projectionText } from "./descriptions.js";
import { inputOf } from "./graph.js";
import { MatrixCanvas } from "./matrix-canvas.js";
import { t } from "../words.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
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
      t("residual.input"),
      identity ? t("residual.input.same") : t("residual.input.mean", { count: input.shape[0] }),
    ),
    residual: term(t("residual.residual"), t("residual.residual.text")),
    shortcut: term(
      t("residual.shortcut"),
      identity ? t("residual.shortcut.same") : t("residual.shortcut.projection", { shape: projectionText(node, input) }),
    ),
    sum: term(t("arithmetic.add"), t("residual.sum.text")),
  };
  const legend = h("canvas", { width: 160, height: 8, "aria-hidden": "true" });
  const [low, high] = [h("span"), h("span")];
  const scale = h(
    "p",
    { class: "scale number", hidden: true },
    low,
    legend,
    high,
    h("span", { class: "muted", text: t(identity ? "residual.scale" : "residual.scale.but_input") }),
  );
  const note = h("p", { class: "muted" });
  const element = h(
    "section",
    { class: "residual-block", "aria-label": t("residual.title") },
    h("h4", { text: t("residual.title") }),
    h(
      "div",
      { class: "terms" },
      terms.input.element,
      operator("→", t("residual.leads")),
      terms.residual.element,
      operator("+", t("residual.plus")),
      terms.shortcut.element,
      operator("=", t("arithmetic.equals")),
      terms.sum.element,
    ),
    scale,
    note,
  );

  /** @type {(title: string, text: string) => {element: HTMLElement, image: MatrixCanvas, empty: HTMLElement}} */
  function term(title, text) {
    const image = new MatrixCanvas(node.axes);
    const empty = h("span", { class: "empty muted", text: t("residual.not_loaded") });
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
      note.textContent = t("residual.show");
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
      `${channel === null ? t("residual.means") : t("detail.channel", { channel })}.`,
      Number.isFinite(ratio) ? t("residual.ratio", { ratio: formatNumber(Number(ratio.toPrecision(2))) }) : "",
      channel === null ? t("residual.brighter") : "",
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
