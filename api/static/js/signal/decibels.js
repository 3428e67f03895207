// One scale of levels for the whole page: dBFS, where a sine at full scale has 0.

import { settings } from "../state/settings.js";

/** @import { ColourScale, Frontend } from "../server/types.js" */

const USUAL_N_FFT = 1_024;

/**
 * What a sine at full scale has in the dB of a spectrogram: its power is that of half the sum of the Hann window, which is
 * half as long as the window.
 * @param {Frontend} [frontend]  absent where the model is not served any more
 */
export const fullScaleOf = (frontend) => 20 * Math.log10((frontend?.win_length ?? frontend?.n_fft ?? USUAL_N_FFT) / 4);

/**
 * The colours of a spectrogram. They mean the same in every picture, so that silence is black and a soft sound is dark.
 * @param {number} fullScale  see `fullScaleOf`
 * @returns {ColourScale}
 */
export const spectrogramScale = (fullScale) => ({
  colours: settings.get("soundColours"),
  min: fullScale - settings.get("range"),
  max: fullScale - settings.get("loudest"),
});
