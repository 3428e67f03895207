// Which part of a window an answer needs, measured: each part in turn is muted and the sound is classified again (occlusion;
// Zeiler and Fergus, 2014, arXiv:1311.2901). All variants are the windows of one long sound, and so of one job.

import { Matrix } from "../matrix.js";
import { sendAgain } from "../send-again.js";
import { bandAxis } from "../sound/frequency-axis.js";
import { makeFile, readAudio } from "./audio.js";
import { editRegion } from "./region.js";
import { t } from "../words.js";

/** @import { ModelCard, Result } from "../types.js" */
/** @import { Sound } from "../library-sound.js" */

/**
 * @typedef {object} Occlusion
 * @property {Matrix} matrix  how far the confidence falls without each part, from 0 to 1, the largest fall above LEAST
 * @property {number} confidence  of the class with everything, 0 to 1
 * @property {number} without  the confidence without the part that lowers it most
 */

const [ROWS, COLUMNS] = [6, 10]; // parts of the window, in equal shares of the frequency axis and of its time
const LEAST = 0.1; // a smaller fall is not as bright as a large one

/**
 * Measure the parts of the window that is looked into, for the class of its class activation.
 * @param {Sound} sound
 * @param {Result} view  what is looked into
 * @param {ModelCard} card
 * @returns {Promise<Occlusion>} rejects with Refused, Unreachable or an Error that can be shown
 */
export async function measureOcclusion({ file, result }, view, card) {
  if (!file) throw new Error(t("occlusion.no_file"));
  const { frontend, window_seconds: seconds, sample_rate: rate } = card;
  const span = result?.windows?.[view.window];
  const piece = pieceOf(await readAudio(file, rate), span?.start ?? 0, Math.round(seconds * rate), rate);
  const variants = [piece];
  const axis = bandAxis(frontend);
  for (let row = 0; row < ROWS; row += 1) {
    const low = row === 0 ? 0 : axis.frequencyAt(row / ROWS);
    const high = row === ROWS - 1 ? Infinity : axis.frequencyAt((row + 1) / ROWS);
    for (let column = 0; column < COLUMNS; column += 1) {
      const [start, end] = [column, column + 1].map((edge) => (edge * seconds) / COLUMNS);
      variants.push(await editRegion(piece, rate, { start, end, low, high }, "mute"));
    }
  }
  const all = new Float32Array(variants.length * piece.length);
  variants.forEach((variant, i) => all.set(variant, i * piece.length));
  const long = makeFile({ rate, channels: [all] }, "parts.wav", false);
  const options = { include: "windows", overlap: 0, top_k: 1_000 };
  const { windows } = await sendAgain({ file: long, result }, options, t("purpose.parts"));
  if (windows?.length !== variants.length) throw new Error(t("occlusion.windows"));
  const [confidence, ...others] = windows.map(
    ({ predictions }) => predictions.find((one) => one.class === view.camClass)?.confidence ?? 0,
  );
  const falls = Float32Array.from(others, (other) => Math.max(confidence - other, 0));
  const most = Math.max(...falls);
  const values = falls.map((fall) => fall / Math.max(most, LEAST));
  return { matrix: new Matrix(ROWS, COLUMNS, values), confidence, without: confidence - most };
}

/**
 * A window of a sound, as the mean of its channels, with silence behind its end.
 * @param {import("./audio.js").Audio} audio
 * @param {number} start  seconds
 * @param {number} size  samples
 * @param {number} rate  Hz
 */
function pieceOf({ channels }, start, size, rate) {
  const piece = new Float32Array(size);
  const first = Math.round(start * rate);
  for (const channel of channels) {
    const end = Math.min(size, channel.length - first);
    for (let i = 0; i < end; i += 1) piece[i] += channel[first + i] / channels.length;
  }
  return piece;
}
