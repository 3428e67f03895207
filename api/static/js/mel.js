// The mel scale, by the formula of HTK.

/** @param {number} frequency  Hz */
export const toMel = (frequency) => 2_595 * Math.log10(1 + frequency / 700);

/** @param {number} mel */
export const toHertz = (mel) => 700 * (10 ** (mel / 2_595) - 1);
