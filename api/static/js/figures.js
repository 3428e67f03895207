// The figures of an answer: bars, certainty, timings, and whose answer it is.

import { h } from "./dom.js";
import { className, percent, span } from "./format.js";

const LEVELS = [
  { least: 0.7, name: "High" },
  { least: 0.4, name: "Medium" },
  { least: 0, name: "Low" },
];
const STAGES = [
  ["queue", "waiting in the queue"],
  ["decode", "decoding"],
  ["batch", "waiting for a batch"],
  ["forward", "network"],
  ["rest", "storing and the rest"],
];

/** high, medium or low for a confidence. */
export const level = (confidence) => LEVELS.find(({ least }) => confidence >= least).name;

/** A bar for each prediction, in their order. */
export function bars(predictions) {
  return h(
    "ol",
    { class: "bars" },
    predictions.map(({ class: name, confidence }) => {
      const bar = h("div", { class: "bar" });
      bar.style.transform = `scaleX(${confidence})`;
      return h(
        "li",
        { data: { level: level(confidence) } },
        h("span", { class: "class", text: className(name), title: className(name) }),
        h("div", { class: "track", "aria-hidden": "true" }, bar),
        h("span", { class: "number", text: percent(confidence, confidence < 0.1 ? 1 : 0) }),
      );
    }),
  );
}

/** How sure the network is, in two numbers and what they mean. */
export function certainty(predictions) {
  const gap = predictions[0].confidence - (predictions[1]?.confidence ?? 0);
  const bits = predictions.reduce((sum, { confidence: p }) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);
  const alike = 2 ** bits;
  return h(
    "dl",
    { class: "facts" },
    h("dt", { text: "Gap to the second" }),
    h(
      "dd",
      {},
      h("b", { class: "number", text: percent(gap) }),
      h("span", {
        class: "muted",
        text:
          gap > 0.5
            ? " – no other class comes near"
            : gap > 0.15
              ? " – ahead, but look at the second"
              : " – nearly a tie",
      }),
    ),
    h("dt", { text: "Entropy" }),
    h(
      "dd",
      {},
      h("b", { class: "number", text: `${bits.toFixed(2)} bits` }),
      h("span", {
        class: "muted",
        text: ` of ${Math.log2(predictions.length).toFixed(2)} – ${alike < 1.05 ? "as good as sure" : `as unsure as between ${alike.toFixed(1)} equal classes`}`,
      }),
    ),
  );
}

/** The stages as one bar, and the numbers under it. */
export function timings({ timings: measured }) {
  const total = measured.total ?? 0;
  const known = STAGES.slice(0, -1).reduce((sum, [stage]) => sum + (measured[stage] ?? 0), 0);
  const seconds = { ...measured, rest: Math.max(0, total - known) };
  const parts = STAGES.filter(([stage]) => seconds[stage] > 0);
  const bar = h("div", { class: "stages", "aria-hidden": "true" });
  for (const [stage] of parts) {
    const part = h("div", { data: { stage } });
    part.style.flexGrow = seconds[stage] / total;
    bar.append(part);
  }
  return h(
    "div",
    { class: "timings" },
    h("h2", { text: `${span(total)} on the server` }),
    bar,
    h(
      "ul",
      {},
      parts.map(([stage, words]) =>
        h(
          "li",
          { data: { stage } },
          h("span", { text: words }),
          h("b", { class: "number", text: span(seconds[stage]) }),
        ),
      ),
    ),
  );
}

/** Which model answered, and how good it was where it was measured. */
export function origin({ result, job }, card) {
  const measured = card?.accuracy.at(-1);
  const accuracy = measured
    ? ` ${percent(measured.correct / measured.total, 1)} right on ${measured.data} (${measured.correct} of ${measured.total}).`
    : "";
  return h(
    "p",
    { class: "muted origin" },
    h("b", { text: result.model }),
    ` heard it, ${result.combined}.${accuracy}`,
    job.finished_at ? ` ${new Date(job.finished_at).toLocaleString()}.` : "",
  );
}
