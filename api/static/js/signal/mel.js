// The mel scales of front ends, by the formulas of HTK and of Slaney's Auditory Toolbox, which librosa has, too.

/** @import { Frontend } from "../server/types.js" */

/** @typedef {{from: (hertz: number) => number, to: (mel: number) => number}} Scale */

/** @param {number} frequency  Hz */
export const toMel = (frequency) => 2_595 * Math.log10(1 + frequency / 700);

/** @param {number} mel */
export const toHertz = (mel) => 700 * (10 ** (mel / 2_595) - 1);

const KNEE = 1_000; // Hz: Slaney's scale is linear below, with 200 / 3 Hz a mel, and logarithmic above
const KNEE_MEL = 15;
const STEP = Math.log(6.4) / 27; // of the logarithm of a frequency, a mel

/** @type {Scale} */
const HTK = { from: toMel, to: toHertz };

/** @type {Scale} */
export const SLANEY = {
  from: (hertz) => (hertz < KNEE ? (hertz * 3) / 200 : KNEE_MEL + Math.log(hertz / KNEE) / STEP),
  to: (mel) => (mel < KNEE_MEL ? (mel * 200) / 3 : KNEE * Math.exp((mel - KNEE_MEL) * STEP)),
};

/**
 * The scale on which the mel bands of a front end are evenly spaced.
 * @param {Frontend} frontend
 */
export const melScale = ({ mel_filters: filters }) => (filters === "slaney" ? SLANEY : HTK);
