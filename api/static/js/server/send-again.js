// Submits the file of a result again, for what the result does not have: the server does not keep sounds.

import * as api from "./api.js";
import { inWords } from "./errors.js";
import { followJob, isFinal } from "./follow-job.js";
import { t } from "../words.js";

/** @import { JobWithResult, Result } from "./types.js" */

/**
 * A result of the same sound, model and windows with other options; the job is deleted afterwards.
 * @param {{file: File | null, result: Result | null}} sound
 * @param {Record<string, string | number>} options
 * @param {string} purpose  completes "choose the file again to …"
 * @returns {Promise<Result>} rejects with Refused, Unreachable or an Error that can be shown
 */
export async function sendAgain({ file, result }, options, purpose) {
  if (!file || !result) throw new Error(t("again.no_file", { purpose }));
  const all = { model: result.model, top_k: 1, ...overlapOf(result), ...options };
  const { id } = await api.submit(file, all, api.newIdempotencyKey()).promise;
  /** @type {JobWithResult} */
  const job = await new Promise((resolve, reject) =>
    followJob(id, {
      onJob: (now) => isFinal(now.status) && resolve(now),
      onDisconnect: () => {},
      onReconnect: () => {},
      onGone: reject,
    }),
  );
  if (job.status !== "succeeded") throw new Error((job.error && inWords(job.error).detail) ?? t("again.failed", { status: job.status }));
  const again = job.result ?? (await api.getResult(id));
  api.cancelJob(id).catch(() => {}); // deletes the result, which the page has now
  return again;
}

/**
 * The overlap that gives the same windows: a result that was opened by its link may have another one than the default.
 * @param {Result} result
 * @returns {{overlap?: number}}
 */
export function overlapOf({ windows }) {
  if (!windows || windows.length < 3) return {};
  const [first, second] = windows;
  return { overlap: Math.min(Math.max(1 - (second.start - first.start) / (first.end - first.start), 0), 0.9) };
}
