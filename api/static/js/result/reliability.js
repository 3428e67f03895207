// The reliability diagram of a model: how often it is right, over its confidence.

import { h, s } from "../view/dom.js";
import { percent } from "../view/format.js";
import { language, t } from "../words.js";

/** @import { ModelCard, ReliabilityBin } from "../server/types.js" */

/**
 * The diagram of the model's evaluation, folded; null where none was recorded.
 * @param {ModelCard | null} card
 */
export function reliabilityDiagram(card) {
  const measured = card?.accuracy.find(({ reliability }) => reliability?.length);
  if (!measured?.reliability) return null;
  const bins = measured.reliability;
  const sounds = bins.reduce((sum, bin) => sum + bin.sounds, 0);
  return h(
    "details",
    { class: "folded reliability" },
    h("summary", { text: t("reliability.title") }),
    h(
      "figure",
      {},
      h("p", { class: "muted axis", text: t("reliability.right") }),
      h(
        "div",
        { class: "plot" },
        ticks("ticks", [1, 0.5, 0]),
        diagram(bins),
      ),
      ticks("ticks below", [0, 0.5, 1]),
      h("p", { class: "muted axis below", text: t("reliability.confidence") }),
      h("figcaption", {
        class: "muted",
        text: t("reliability.text", { sounds: sounds.toLocaleString(language), data: measured.data }),
      }),
    ),
  );
}

/**
 * @param {string} kind
 * @param {number[]} shares
 */
function ticks(kind, shares) {
  const labels = shares.map((share) => h("li", { text: percent(share) }));
  return h("ol", { class: `muted number ${kind}`, "aria-hidden": "true" }, labels);
}

/**
 * One bar for each bin.
 * @param {ReliabilityBin[]} bins
 */
function diagram(bins) {
  const most = Math.max(...bins.map((bin) => bin.sounds));
  const label = bins.map((bin) => `${describe(bin)}.`).join(" ");
  return s(
    "svg",
    { viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img", "aria-label": label },
    bins.map((bin) =>
      s(
        "rect",
        {
          x: 100 * bin.low + 0.5,
          y: 100 * (1 - bin.accuracy),
          width: 100 * (bin.high - bin.low) - 1,
          height: 100 * bin.accuracy,
          opacity: 0.35 + 0.65 * Math.sqrt(bin.sounds / most), // few sounds are faint
        },
        s("title", { text: describe(bin) }),
      ),
    ),
    s("line", { x1: 0, y1: 100, x2: 100, y2: 0 }),
  );
}

/** @param {ReliabilityBin} bin */
const describe = ({ low, high, accuracy, sounds }) =>
  t("reliability.bin", { low: percent(low), high: percent(high), accuracy: percent(accuracy), sounds });
