// What a result says, in words: the verdict, and the warnings.

import { className, percent } from "./format.js";

/** @import { Detection, Result, SoundWarning } from "./types.js" */

/** What each warning means to whoever recorded the sound. @type {Record<string, string>} */
const WARNINGS = {
  silent: "Nothing in this sound is louder than its noise.",
  quiet: "This sound is very quiet. Record it closer or with more gain for a more reliable answer.",
  clipped: "The recording is overdriven: its loudest moments are cut off.",
  beyond_full_scale: "The numbers in this file go beyond full scale.",
  dc_offset: "The recording had a constant offset, which was removed.",
  channels_cancel: "The channels cancel each other out, so only the loudest one was used.",
  narrow_band: "This recording and the model do not cover the same frequencies.",
  resampled_up: "The sample rate of this file is lower than that of the model: high frequencies are missing.",
  truncated: "The file ends early or is damaged. What can be read was used.",
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
  if (verdict === "silent") return "Nothing to hear";
  if (verdict === "unknown") return `Not one of the ${classes ? `${classes} ` : ""}sounds this model knows`;
  const events = result.detections ?? [];
  if (detectedClasses(result).length > 1) return `${events.length} events`;
  return verdict === "unsure" ? `Perhaps ${name}` : name;
}

/**
 * The answer in a few words, for lists and screen readers.
 * @param {Result} result
 */
export function answerText(result) {
  const { verdict, predictions } = result;
  if (verdict === "silent") return "Nothing to hear";
  if (verdict === "unknown") return "Unknown sound";
  const [first, second, ...others] = detectedClasses(result).map(className);
  if (second) return others.length ? `${first}, ${second} and ${others.length} more` : `${first} and ${second}`;
  const [{ class: name, confidence }] = predictions;
  return `${verdict === "unsure" ? "perhaps " : ""}${className(name)}, ${percent(confidence)}`;
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
