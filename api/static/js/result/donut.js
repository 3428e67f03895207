// Confidences as a donut: the parts of a whole, beside the bars, which say the same in words.

import { h, s } from "../view/dom.js";
import { className, percent } from "../view/format.js";
import { t } from "../words.js";

/** @import { Prediction } from "../server/types.js" */

const [RADIUS, WIDTH] = [39, 19]; // of the middle of the ring, in hundredths of its box
const CIRCLE = 2 * Math.PI * RADIUS;

/** How many classes have a colour; the others are one part. */
const COLOURS = 5;

/**
 * A donut of the first classes and of all others, and the colours of the first ones on their bars.
 * @param {Prediction[]} predictions  of all classes, which sum to 1
 * @param {HTMLElement} bars
 */
export function donut(predictions, bars) {
  const first = predictions.slice(0, COLOURS);
  const others = predictions.length - first.length;
  const rest = Math.max(1 - first.reduce((sum, { confidence }) => sum + confidence, 0), 0);
  const parts = first.map(({ class: name, confidence }) => ({ name: className(name), confidence }));
  if (others) parts.push({ name: t("donut.others", { count: others }), confidence: rest });
  const texts = parts.map(({ name, confidence }) => `${name} ${percent(confidence)}`);
  let begun = 0;
  const arcs = parts.map(({ confidence }, i) => {
    const arc = s(
      "circle",
      {
        cx: 50,
        cy: 50,
        r: RADIUS,
        class: i < first.length ? `part part-${i}` : "part others",
        "stroke-width": WIDTH,
        "stroke-dasharray": `${confidence * CIRCLE} ${CIRCLE}`,
        transform: `rotate(${360 * begun - 90} 50 50)`,
      },
      s("title", { text: texts[i] }),
    );
    begun += confidence;
    return arc;
  });
  bars.classList.add("coloured");
  [...bars.children].forEach((row, i) => row.classList.toggle(`part-${i}`, i < first.length));
  const picture = s("svg", { viewBox: "0 0 100 100", role: "img", "aria-label": t("donut.label", { shares: texts.join(", ") }) }, arcs);
  const [{ confidence }] = parts;
  return h("figure", { class: "donut" }, picture, h("figcaption", { "aria-hidden": "true", class: "number", text: percent(confidence) }));
}
