// The front ends of networks side by side: the spectrogram of one may be another than the one that is shown.

/** @import { Frontend, ModelCard } from "../server/types.js" */

/**
 * The front end of a network.
 * @param {ModelCard} card
 * @param {string} part  name of the network; empty where there is one
 * @returns {Frontend}
 */
export function frontendOf({ architecture, frontend }, part) {
  const { first = 0 } = architecture.spectrograms?.[part] ?? {};
  let row = 0;
  for (const one of [frontend, ...(frontend.stacked ?? [])]) {
    if (row === first) return one;
    row += one.n_mels;
  }
  return frontend;
}

/**
 * The front end of the network that the class activation is of: the last one.
 * @param {ModelCard} card
 */
export const camFrontend = (card) => frontendOf(card, Object.keys(card.architecture.parts ?? {}).at(-1) ?? "");
