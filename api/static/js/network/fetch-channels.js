// Fetches all channels of one layer, which a result does not have.

import { sendAgain } from "../server/send-again.js";
import { t } from "../words.js";

/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Sound } from "../library/sound.js" */

/**
 * All channels of one layer by its name; of a residual block also its `.residual` and its `.shortcut`.
 * The server does not keep sounds, so the file is submitted again; the channels are cached.
 * @param {Sound} sound
 * @param {string} layer
 * @returns {Promise<Map<string, Matrix[]>>} rejects with Refused, Unreachable or an Error that can be shown
 */
export function fetchChannels(sound, layer) {
  const key = keyOf(sound, layer);
  const cached = sound.channelRequests.get(key);
  if (cached) return cached;
  const window = sound.view?.window ?? 0;
  const request = sendAgain(sound, { layer, window }, t("purpose.channels")).then(({ channels }) => channels);
  sound.channelRequests.set(key, request);
  request.catch(() => sound.channelRequests.delete(key));
  return request;
}

/**
 * Whether the channels of a layer have been fetched or are on their way.
 * @param {Sound} sound
 * @param {string} layer
 */
export const hasRequested = (sound, layer) => sound.channelRequests.has(keyOf(sound, layer));

/**
 * @param {Sound} sound
 * @param {string} layer
 */
const keyOf = ({ view }, layer) => `${view?.window} ${layer}`;
