// The confidences of two results in one chart: two marks for each class, joined by a line.

import { h } from "../view/dom.js";
import { className, percent } from "../view/format.js";
import { t } from "../words.js";

/** @import { Result } from "../server/types.js" */

const CLASSES = 5; // of each result
const LEAST = 0.001; // confidence of a class that is shown

/**
 * @param {Result} left
 * @param {Result} right
 */
export function dumbbells(left, right) {
  /** @type {(result: Result) => Map<string, number>} */
  const confidences = ({ predictions }) => new Map(predictions.map(({ class: name, confidence }) => [name, confidence]));
  const [a, b] = [confidences(left), confidences(right)];
  const names = [...new Set([left, right].flatMap(({ predictions }) => predictions.slice(0, CLASSES).map((one) => one.class)))];
  /** @param {string} name */
  const highest = (name) => Math.max(a.get(name) ?? 0, b.get(name) ?? 0);
  names.sort((one, other) => highest(other) - highest(one));
  const shown = names.filter((name, i) => i < 2 || highest(name) >= LEAST);
  return h(
    "figure",
    { class: "dumbbells" },
    h(
      "figcaption",
      {},
      h("b", { text: t("compare.classes") }),
      h("span", { class: "key" }, mark("left"), t("compare.left")),
      h("span", { class: "key" }, mark("right"), t("compare.right")),
    ),
    h(
      "ol",
      {},
      shown.map((name) => row(name, a.get(name) ?? null, b.get(name) ?? null)),
    ),
  );
}

/** @param {"left" | "right"} side */
const mark = (side) => h("i", { class: "mark", data: { side }, "aria-hidden": "true" });

/**
 * @param {string} name
 * @param {number | null} a  null: the model does not have the class
 * @param {number | null} b
 */
function row(name, a, b) {
  const track = h("span", { class: "track", "aria-hidden": "true" });
  if (a !== null && b !== null) {
    const line = h("i", { class: "line" });
    line.style.insetInlineStart = `${100 * Math.min(a, b)}%`;
    line.style.width = `${100 * Math.abs(a - b)}%`;
    track.append(line);
  }
  for (const [side, value] of /** @type {const} */ ([
    ["left", a],
    ["right", b],
  ])) {
    if (value === null) continue;
    const one = mark(side);
    one.style.insetInlineStart = `${100 * value}%`;
    track.append(one);
  }
  /** @param {number | null} value */
  const text = (value) => (value === null ? "–" : percent(value, value < 0.1 ? 1 : 0));
  const values = { left: a === null ? t("compare.no_class") : text(a), right: b === null ? t("compare.no_class") : text(b) };
  return h(
    "li",
    { data: { class: name } },
    h("span", { class: "class", text: className(name) }),
    track,
    h("span", { class: "number", "aria-hidden": "true", text: `${text(a)} · ${text(b)}` }),
    h("span", { class: "visually-hidden", text: t("compare.row", values) }),
  );
}
