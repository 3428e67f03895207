// Numbers and names as people read them, in the visitor's language.

import { classWords, language } from "../words.js";

const POINT = (0.5).toLocaleString(language)[1]; // before the decimals: a comma in German
const SPACE = "\u00a0"; // between a number and its unit, so that no line ends there

/** The text of a number in JavaScript, as people write it. @param {string} text */
const localised = (text) => text.replace(".", POINT).replace(/^-/, "−");

/**
 * A number with a fixed count of decimals.
 * @param {number} number
 * @param {number} digits  after the decimal point
 */
export const fixed = (number, digits) => localised(number.toFixed(digits));

/** A number with as few digits as it needs. @param {number} number */
const shortest = (number) => localised(String(number));

/**
 * A share in percent. Less than everything is never written as 100 %: 0.9987 is 99.9 %, not 100 % beside another 0.1 %.
 * A tie is rounded to the even digit, as in the model cards, which Python writes: 349 of 400 are 87.2 %.
 * @param {number} share
 * @param {number} [digits]  after the decimal point
 */
export function percent(share, digits = 0) {
  const scaled = 100 * share * 10 ** digits;
  const tie = scaled % 1 === 0.5;
  const text = ((tie ? 2 * Math.round(scaled / 2) : Math.round(scaled)) / 10 ** digits).toFixed(digits);
  const least = share < 1 && Number(text) >= 100 ? String(Math.min(99.9, Number((100 * share).toFixed(1)))) : text;
  return `${localised(least)}${SPACE}%`;
}

/**
 * A size: 512 B, 24 kB, 1.5 MB.
 * @param {number} count
 */
export function formatBytes(count) {
  if (count < 1_000) return `${count}${SPACE}B`;
  if (count < 1_000_000) return `${fixed(count / 1_000, count < 10_000 ? 1 : 0)}${SPACE}kB`;
  return `${fixed(count / 1_000_000, count < 100_000_000 ? 1 : 0)}${SPACE}MB`;
}

/**
 * A position in a sound, as m:ss.s: 0:05.2.
 * @param {number} seconds
 * @param {number} [digits]  after the decimal point
 */
export function clock(seconds, digits = 1) {
  const scale = 10 ** digits;
  const whole = Math.round(Math.max(0, seconds) * scale) / scale;
  const rest = fixed(whole % 60, digits).padStart(digits ? 3 + digits : 2, "0");
  return `${Math.floor(whole / 60)}:${rest}`;
}

/**
 * A duration with its unit: 24 ms, 5 s, 1 min 30 s.
 * @param {number} seconds
 */
export function formatDuration(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1_000)}${SPACE}ms`;
  if (seconds < 60) return `${shortest(Number(seconds.toFixed(seconds < 10 ? 1 : 0)))}${SPACE}s`;
  const rest = Math.round(seconds % 60);
  return `${Math.floor(seconds / 60)}${SPACE}min${rest ? ` ${rest}${SPACE}s` : ""}`;
}

/**
 * A level relative to full scale: −12.5 dBFS.
 * @param {number} level
 * @param {number} [digits]  after the decimal point
 */
export function formatDbfs(level, digits = 1) {
  const text = level.toFixed(digits);
  return `${Number(text) === 0 ? "0" : localised(text)}${SPACE}dBFS`;
}

/** @param {number} frequency  Hz */
export const formatHertz = (frequency) =>
  frequency < 1_000
    ? `${Math.round(frequency)}${SPACE}Hz`
    : `${shortest(Number((frequency / 1_000).toFixed(frequency < 10_000 ? 2 : 1)))}${SPACE}kHz`;

const NOTES = ["C", "C♯", "D", "D♯", "E", "F", "F♯", "G", "G♯", "A", "A♯", "B"];

/**
 * The nearest note of the equal temperament with A4 at 440 Hz, and the distance from it in cents: A4, A4 +20 ct.
 * @param {number} frequency  Hz; below the hearing there are no notes
 * @returns {string}
 */
export function noteName(frequency) {
  if (!(frequency >= 20)) return "";
  const exact = 69 + 12 * Math.log2(frequency / 440); // of MIDI
  const note = Math.round(exact);
  const cents = Math.round(100 * (exact - note));
  const offset = cents ? ` ${cents > 0 ? "+" : "−"}${Math.abs(cents)} ct` : "";
  return `${NOTES[note % 12]}${Math.floor(note / 12) - 1}${offset}`;
}

/**
 * A class name as people write it, in the visitor's language where it is one of ESC-50 or AudioSet: crying_baby -> crying baby.
 * @param {string} name
 */
export const className = (name) => classWords.get(name) ?? name.replaceAll("_", " ");

/**
 * A number with at most four significant digits.
 * @param {number} number
 */
export const formatNumber = (number) => (Number.isFinite(number) ? shortest(Number(number.toPrecision(4))) : "–");
