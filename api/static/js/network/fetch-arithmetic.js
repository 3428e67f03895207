// Fetches how one number of the network was computed.

import { sendAgain } from "../server/send-again.js";
import { t } from "../words.js";

/** @import { Arithmetic } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

const KEPT = 60; // the latest answers of a sound

/**
 * How a number was computed. Rejects with an Error that can be shown.
 * @param {Sound} sound
 * @param {string} cell  LAYER:CHANNEL:ROW:COLUMN, or logits:CLASS
 * @returns {Promise<Arithmetic>}
 */
export function fetchArithmetic(sound, cell) {
  const { computations, view } = sound;
  const window = view?.window ?? 0;
  const key = `${window} ${cell}`;
  const cached = computations.get(key);
  if (cached) return cached;
  const request = sendAgain(sound, { cell, window }, t("purpose.arithmetic")).then(({ arithmetic }) => {
    if (!arithmetic) throw new Error(t("arithmetic.unsupported"));
    return arithmetic;
  });
  computations.set(key, request);
  if (computations.size > KEPT) computations.delete([...computations.keys()][0]);
  request.catch(() => computations.delete(key));
  return request;
}
