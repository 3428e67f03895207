// What the server says of an error, in the visitor's language: by its code, since the messages of the server are English.

import { formatBytes, formatDuration, formatHertz } from "../view/format.js";
import { errorWords, fill } from "../words.js";

/** @import { Limits } from "./types.js" */
/** @import { Values } from "../words.js" */

/** What the texts may name of the server's limits. @type {Values} */
let values = {};

/** @param {Limits} limits */
export function useLimits(limits) {
  values = {
    largest: formatBytes(limits.max_upload_bytes),
    shortest: formatDuration(limits.min_seconds),
    longest: formatDuration(limits.max_seconds),
    channels: limits.max_channels,
    lowest: formatHertz(limits.min_rate),
    highest: formatHertz(limits.max_rate),
  };
}

/**
 * An error with the title and the detail of the page's language. One without a text there, or with a text that names a limit
 * that is not known, stays as it is.
 * @template {{code?: string, title?: string, detail?: string}} Problem
 * @param {Problem} problem
 * @returns {Problem}
 */
export function inWords(problem) {
  const { code = "", title = "", detail = title } = problem;
  if (!Object.hasOwn(errorWords, code)) return problem;
  const [ownTitle, text] = errorWords[code];
  const known = fill(text, values);
  if (/\{(?!detail\})\w+\}/.test(known)) return problem;
  return { ...problem, title: ownTitle, detail: fill(known, { detail }) };
}
