// What a result says, in words: the verdict, and the warnings.

import { className, percent } from "../view/format.js";
import { t } from "../words.js";

/** @import { Detection, Result, SoundWarning } from "../server/types.js" */

/** What each warning means to whoever recorded the sound. @type {Record<string, string>} */
const WARNINGS = {
  silent: t("warning.silent"),
  quiet: t("warning.quiet"),
  clipped: t("warning.clipped"),
  beyond_full_scale: t("warning.beyond_full_scale"),
  dc_offset: t("warning.dc_offset"),
  channels_cancel: t("warning.channels_cancel"),
  narrow_band: t("warning.narrow_band"),
  resampled_up: t("warning.resampled_up"),
  other_tracks: t("warning.other_tracks"),
  truncated: t("warning.truncated"),
};

/**
 * A warning as a sentence; the detail has the numbers.
 * @param {SoundWarning} warning
 */
export const warningText = ({ code, detail }) => (Object.hasOwn(WARNINGS, code) ? WARNINGS[code] : detail);

/**
 * Whether a sound is longer than the model's window: its answer is a list of events.
 * @param {Result} result
 */
export const isLong = ({ windows }) => (windows?.length ?? 0) > 1;

/**
 * Whether the headline names a class.
 * @param {Result} result
 */
export const isNamed = ({ verdict }) => verdict === "named" || verdict === "unsure";

/**
 * The detected classes of a long sound, in the order of their first events.
 * @param {Result} result
 * @returns {string[]}
 */
export const detectedClasses = (result) =>
  isLong(result) ? [...new Set((result.detections ?? []).map((detection) => detection.class))] : [];

/**
 * The verdict as a headline.
 * @param {Result} result
 * @param {number | null} classes  number of the model's classes, if known
 */
export function headline(result, classes) {
  const { verdict, predictions } = result;
  const name = className(predictions[0].class);
  if (verdict === "silent") return t("verdict.silent");
  if (verdict === "unknown") return classes ? t("verdict.unknown_of", { classes }) : t("verdict.unknown");
  const events = result.detections ?? [];
  if (detectedClasses(result).length > 1) return t("verdict.events", { count: events.length });
  return verdict === "unsure" ? t("verdict.perhaps", { name }) : name;
}

/**
 * The answer in a few words, for lists and screen readers.
 * @param {Result} result
 */
export function answerText(result) {
  const { verdict, predictions } = result;
  if (verdict === "silent") return t("verdict.silent");
  if (verdict === "unknown") return t("verdict.unknown_sound");
  const [first, second, ...others] = detectedClasses(result).map(className);
  if (second) return others.length ? t("verdict.more", { first, second, count: others.length }) : t("verdict.two", { first, second });
  const [{ class: name, confidence }] = predictions;
  const values = { name: className(name), share: percent(confidence) };
  return t(verdict === "unsure" ? "verdict.answer_unsure" : "verdict.answer", values);
}

/**
 * How often each class is detected and for how many seconds, in the order of their first events.
 * @param {Detection[]} detections
 * @returns {{name: string, count: number, seconds: number}[]}
 */
export function eventTotals(detections) {
  /** @type {Map<string, {name: string, count: number, seconds: number}>} */
  const totals = new Map();
  for (const { class: name, start, end } of detections) {
    const total = totals.get(name) ?? { name, count: 0, seconds: 0 };
    totals.set(name, { name, count: total.count + 1, seconds: total.seconds + (end - start) });
  }
  return [...totals.values()];
}
