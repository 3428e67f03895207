// The samples of a sound file, decoded by the browser, and files made of samples.

import { wavFile } from "../signal/wav.js";
import { t } from "../words.js";

/**
 * @typedef {object} Audio
 * @property {number} rate  Hz
 * @property {Float32Array<ArrayBuffer>[]} channels
 */

const RATES = [8_000, 96_000]; // Hz: those that every browser can decode to
const USUAL_RATE = 44_100; // Hz, where that of the file is not known

/** What was read or made last: another edit mostly follows. @type {{file: File, rate: number, audio: Promise<Audio>} | null} */
let last = null;

/**
 * The samples of a file. They are kept until another file is read or made.
 * @param {File} file
 * @param {number | null | undefined} rate  Hz, of the file: other rates are resampled
 * @returns {Promise<Audio>} rejects with an Error that can be shown
 */
export function readAudio(file, rate) {
  const possible = Math.min(Math.max(rate ?? USUAL_RATE, RATES[0]), RATES[1]);
  if (last?.file === file && last.rate === possible) return last.audio;
  const audio = decode(file, possible);
  last = { file, rate: possible, audio };
  audio.catch(() => (last = null));
  return audio;
}

/**
 * A WAV file of samples.
 * @param {Audio} audio
 * @param {string} name
 * @param {boolean} [keep]  its samples, for the next edit
 */
export function makeFile(audio, name, keep = true) {
  const file = wavFile(audio.channels, audio.rate, name);
  if (keep) last = { file, rate: audio.rate, audio: Promise.resolve(audio) };
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
    throw new Error(t("audio.undecodable"));
  }
  const channels = Array.from({ length: buffer.numberOfChannels }, (_, i) => buffer.getChannelData(i).slice());
  return { rate, channels };
}
