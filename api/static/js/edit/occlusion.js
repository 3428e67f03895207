// Which part of a window an answer needs: the server mutes each part in turn and classifies the rest (include=occlusion).

import { Matrix } from "../signal/matrix.js";
import { LEAST_CONFIDENCE } from "../server/api.js";
import { sendAgain } from "../server/send-again.js";
import { t } from "../words.js";

/** @import { Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

/**
 * @typedef {object} Occlusion
 * @property {Matrix} matrix  how far the confidence falls without each part, from 0 to 1, the largest fall above LEAST
 * @property {number} confidence  of the class with everything, 0 to 1
 * @property {number} without  the confidence without the part that lowers it most
 */

const LEAST = 0.1; // a smaller fall is not as bright as a large one

/**
 * The confidence of the class of the class activation, in the window that is looked into. 0 where it is not among those that are
 * kept of the window; of a recording of more than ten minutes, the server sends ten of each.
 * @param {Result} view
 */
const confidenceOf = ({ window, windows, camClass }) =>
  windows?.[window].predictions.find((one) => one.class === camClass)?.confidence ?? 0;

/**
 * Whether the class has a confidence that can fall.
 * @param {Result} view
 */
export const canFall = (view) => confidenceOf(view) >= LEAST_CONFIDENCE;

/**
 * Measure the parts of the window that is looked into, for the class of its class activation.
 * @param {Sound} sound
 * @param {Result} view  what is looked into
 * @returns {Promise<Occlusion>} rejects with Refused, Unreachable or an Error that can be shown
 */
export async function measureOcclusion(sound, view) {
  const { window, windows, camClass } = view;
  const options = { include: "occlusion", window, cam_class: camClass };
  const { occlusion, windows: again } = await sendAgain(sound, options, t("purpose.parts"));
  if (!occlusion || again?.length !== windows?.length) throw new Error(t("look.other_windows"));
  const falls = occlusion.values.map((fall) => Math.max(fall, 0));
  const most = Math.max(...falls);
  const values = falls.map((fall) => fall / Math.max(most, LEAST));
  const confidence = confidenceOf(view);
  const matrix = new Matrix(occlusion.rows, occlusion.columns, values);
  return { matrix, confidence, without: Math.max(confidence - most, 0) };
}
