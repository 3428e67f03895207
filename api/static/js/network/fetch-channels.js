// Fetches all channels of one layer, which a result does not have.

import * as api from "../api.js";
import { followJob, isFinal } from "../follow-job.js";

/** @import { JobWithResult } from "../types.js" */
/** @import { Matrix } from "../matrix.js" */
/** @import { Sound } from "../library.js" */

/**
 * All channels of one layer by its name; of a residual block also its `.residual` and its `.shortcut`.
 * The server does not keep sounds, so the file is submitted again; the channels are cached.
 * @param {Sound} sound
 * @param {string} layer
 * @returns {Promise<Map<string, Matrix[]>>} rejects with Refused, Unreachable or an Error that can be shown
 */
export function fetchChannels(sound, layer) {
  const cached = sound.channelRequests.get(layer);
  if (cached) return cached;
  const request = submit(sound, layer);
  sound.channelRequests.set(layer, request);
  request.catch(() => sound.channelRequests.delete(layer));
  return request;
}

/**
 * @param {Sound} sound
 * @param {string} layer
 */
async function submit({ file, result }, layer) {
  if (!file || !result) throw new Error("The server does not keep sounds: choose the file again to see the channels.");
  const options = { model: result.model, top_k: 1, layer, window: result.window };
  const { id } = await api.submit(file, options, api.newIdempotencyKey()).promise;
  /** @type {JobWithResult} */
  const job = await new Promise((resolve, reject) =>
    followJob(id, {
      onJob: (now) => isFinal(now.status) && resolve(now),
      onDisconnect: () => {},
      onReconnect: () => {},
      onGone: reject,
    }),
  );
  if (job.status !== "succeeded") throw new Error(job.error?.detail ?? `The job was ${job.status}.`);
  const { channels } = job.result ?? (await api.getResult(id));
  api.cancelJob(id).catch(() => {}); // deletes the result, which the page has now
  return channels;
}
