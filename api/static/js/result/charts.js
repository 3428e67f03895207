// The parts of a result: confidence bars, certainty, level, timings, and the model that computed it.

import { h } from "../view/dom.js";
import { className, fixed, formatDbfs, formatDuration, formatHertz, percent } from "../view/format.js";
import { language, t } from "../words.js";

/** @import { Job, Level, ModelCard, Prediction, Result, TimedStage } from "../server/types.js" */

const LEVELS = /** @type {const} */ ([
  [0.7, "High"],
  [0.4, "Medium"],
]);

/** @type {[TimedStage, string][]} */
const MEASURED = [
  ["queue", t("timing.queue")],
  ["load", t("timing.load")],
  ["decode", t("timing.decode")],
  ["batch", t("timing.batch")],
  ["forward", t("timing.forward")],
];

/**
 * High, Medium or Low.
 * @param {number} confidence
 */
export const confidenceLevel = (confidence) => LEVELS.find(([least]) => confidence >= least)?.[1] ?? "Low";

/**
 * A class with what it is a kind of, as far up as the ontology goes: `Bark – Animal › Domestic animals, pets › Dog`.
 * @param {string} name
 * @param {Record<string, string[]>} parents
 */
function kindOf(name, parents) {
  /** @type {string[]} */
  const above = [];
  for (let at = parents[name]?.[0]; at && !above.includes(at); at = parents[at]?.[0]) above.push(at);
  return className(name) + (above.length ? ` – ${above.reverse().join(" › ")}` : "");
}

/**
 * A bar for each prediction, in their order.
 * @param {Prediction[]} predictions
 * @param {((name: string) => void) | null} [onPick]  gets the class whose bar was clicked; without it, bars are no buttons
 * @param {Record<string, string[]>} [parents]  what a class is a kind of
 * @param {Prediction[] | null} [before]  of the original, for an edited sound: a second bar below each
 */
export function confidenceBars(predictions, onPick = null, parents = {}, before = null) {
  const earlier = new Map(before?.map(({ class: name, confidence }) => [name, confidence]));
  return h(
    "ol",
    { class: `bars ${before ? "compared" : ""}` },
    predictions.map(({ class: name, confidence }) => {
      const was = before ? (earlier.get(name) ?? 0) : null;
      const bars = [barOf("bar", confidence), was === null ? null : barOf("bar earlier", was)];
      const parts = [
        h("span", { class: "class", text: className(name), title: onPick ? null : kindOf(name, parents) }),
        h("span", { class: "track", "aria-hidden": "true" }, bars),
        h("span", { class: "number", text: shortPercent(confidence) }),
        was === null ? null : h("span", { class: "number was muted", text: t("charts.was", { share: shortPercent(was) }) }),
      ];
      const row = onPick
        ? h(
            "button",
            {
              type: "button",
              class: "row",
              title: t("charts.where", { class: kindOf(name, parents) }),
              "aria-pressed": "false",
              data: { class: name },
              on: { click: () => onPick(name) },
            },
            parts,
          )
        : h("div", { class: "row" }, parts);
      return h("li", { data: { level: confidenceLevel(confidence) } }, row);
    }),
  );
}

/**
 * Whether confidences are parts of a whole: those of several classes at once are not, nor the highest of several windows.
 * @param {Prediction[]} predictions  of all classes
 */
export const areParts = (predictions) => Math.abs(predictions.reduce((sum, { confidence }) => sum + confidence, 0) - 1) < 0.02;

/** @param {number} confidence */
const shortPercent = (confidence) => percent(confidence, confidence < 0.1 ? 1 : 0);

/**
 * @param {string} name  of its CSS class
 * @param {number} confidence
 */
function barOf(name, confidence) {
  const bar = h("span", { class: name });
  bar.style.transform = `scaleX(${confidence})`;
  return bar;
}

/** @type {(term: string, value: string, text?: string) => HTMLElement[]} */
const fact = (term, value, text = "") => [
  h("dt", { text: term }),
  h("dd", {}, h("b", { class: "number", text: value }), h("span", { class: "muted", text })),
];

/**
 * How certain the network is: the margin between the first two classes, and the entropy of the distribution. Two to the
 * power of the entropy is the perplexity: the number of equally likely classes of that entropy. The strongest evidence of
 * several windows is no distribution and has no entropy.
 * @param {Result} result  with all classes
 */
export function certainty({ predictions, combined }) {
  const margin = predictions[0].confidence - (predictions[1]?.confidence ?? 0);
  const bits = predictions.reduce((sum, { confidence: p }) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
  const lead = t(margin > 0.5 ? "charts.clear" : margin > 0.15 ? "charts.moderate" : "charts.tie");
  const maximum = fixed(Math.log2(predictions.length), 2);
  return h(
    "dl",
    { class: "facts" },
    fact(t("charts.lead"), percent(margin), ` – ${lead}`),
    /^(evidence|max) /.test(combined)
      ? null
      : fact(t("charts.entropy"), t("charts.bits", { bits: fixed(bits, 2) }), ` ${t("charts.of_most", { maximum, uncertainty: uncertainty(2 ** bits) })}`),
  );
}

/**
 * How loud the sound is, and which frequencies it uses.
 * @param {Level | null} level
 */
export function levelFacts(level) {
  if (!level) return null;
  const { peak_dbfs: peak, rms_dbfs: rms, bandwidth } = level;
  return h(
    "dl",
    { class: "facts" },
    peak === null || rms === null
      ? fact(t("charts.level"), t("charts.silence"), t("charts.silence.text"))
      : fact(t("charts.level"), formatDbfs(rms), ` ${t("charts.level.text", { peak: formatDbfs(peak) })}`),
    bandwidth ? fact(t("charts.frequencies"), t("charts.up_to", { frequency: formatHertz(bandwidth) })) : null,
  );
}

/** @param {number} perplexity */
function uncertainty(perplexity) {
  if (perplexity < 1.25) return t("charts.very_sure");
  if (perplexity < 2.5) return t("charts.fairly_sure");
  return t("charts.uncertain", { count: Math.round(perplexity) });
}

/**
 * The stages of the job as one bar, with their durations below it; null where they are not known.
 * @param {Job} job
 */
export function timings({ timings: measured }) {
  const total = measured.total ?? 0;
  if (!total) return null;
  const stages = MEASURED.map(([stage, label]) => ({ stage: String(stage), label, seconds: measured[stage] ?? 0 }));
  const rest = total - stages.reduce((sum, { seconds }) => sum + seconds, 0);
  stages.push({ stage: "rest", label: t("timing.rest"), seconds: Math.max(0, rest) });
  const parts = stages.filter(({ seconds }) => seconds > 0);
  const bar = h("div", { class: "stages", "aria-hidden": "true" });
  for (const { stage, seconds } of parts) {
    const part = h("div", { data: { stage } });
    part.style.flexGrow = String(seconds / total);
    bar.append(part);
  }
  return h(
    "div",
    { class: "timings" },
    h("h2", { text: t("charts.on_server", { duration: formatDuration(total) }) }),
    bar,
    h(
      "ul",
      {},
      parts.map(({ stage, label, seconds }) =>
        h(
          "li",
          { data: { stage } },
          h("span", { text: label }),
          h("b", { class: "number", text: formatDuration(seconds) }),
        ),
      ),
    ),
  );
}

/**
 * How the windows of a sound became one answer.
 * @param {string} combined  of a result: `single window`, or as `mean of 5 windows`
 */
function combinedText(combined) {
  if (combined === "single window") return t("charts.combined.single");
  const [, how, count] = /^(evidence|max|mean) of (\d+) windows$/.exec(combined) ?? [];
  return how ? t(/** @type {"charts.combined.mean"} */ (`charts.combined.${how}`), { count }) : combined;
}

/**
 * Which model computed a result and when, and how accurate it is where that was measured.
 * @param {Result} result
 * @param {Job} job
 * @param {ModelCard | null} card
 */
export function provenance(result, job, card) {
  const measured = card?.accuracy.at(-1);
  const accuracy = measured
    ? ` ${t("charts.accuracy", { ...measured, reliability: "", share: percent(measured.correct / measured.total, 1) })}`
    : "";
  return h(
    "p",
    { class: "muted provenance" },
    `${t("page.model")} `,
    h("b", { text: result.model }),
    `, ${combinedText(result.combined)}.${card?.multi_label ? ` ${t("charts.several")}` : ""}${accuracy}`,
    job.finished_at ? ` ${new Date(job.finished_at).toLocaleString(language)}.` : "",
  );
}
