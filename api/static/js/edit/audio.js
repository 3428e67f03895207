// The samples of a sound file, decoded by the browser, and files made of samples.

import { encodeWav } from "./wav.js";

/**
 * @typedef {object} Audio
 * @property {number} rate  Hz
 * @property {Float32Array<ArrayBuffer>[]} channels
 */

const RATES = [8_000, 96_000]; // Hz: those that every browser can decode to
const USUAL_RATE = 44_100; // Hz, where that of the file is not known

/** The one that was read or made last: another edit mostly follows. @type {{file: File, audio: Promise<Audio>} | null} */
let last = null;

/**
 * The samples of a file. They are kept until another file is read or made.
 * @param {File} file
 * @param {number | null | undefined} rate  Hz, of the file: other rates are resampled
 * @returns {Promise<Audio>} rejects with an Error that can be shown
 */
export function readAudio(file, rate) {
  if (last?.file === file) return last.audio;
  const audio = decode(file, Math.min(Math.max(rate ?? USUAL_RATE, RATES[0]), RATES[1]));
  last = { file, audio };
  audio.catch(() => (last = null));
  return audio;
}

/**
 * A WAV file of samples.
 * @param {Audio} audio
 * @param {string} name
 */
export function makeFile(audio, name) {
  const file = new File([encodeWav(audio.channels, audio.rate)], name, { type: "audio/wav" });
  last = { file, audio: Promise.resolve(audio) };
  return file;
}

/**
 * @param {File} file
 * @param {number} rate  Hz
 * @returns {Promise<Audio>}
 */
async function decode(file, rate) {
  let buffer;
  try {
    buffer = await new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error("This browser cannot decode this file, so it cannot be edited here.");
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i).slice());
  return { rate, channels };
}
