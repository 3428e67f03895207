// The visitor's choices on this page, stored by the browser.

import { Emitter } from "./emitter.js";

const STORAGE_KEY = "otoscope";
const DEFAULTS = {
  theme: "auto", // auto, light, dark
  model: "", // empty: the server's default
  soundColours: "magma", // colour map of the spectrogram
  mapColours: "viridis", // colour map of the feature maps
  range: 90, // the first colour of a spectrogram, in dB below full scale
  loudest: 0, // its last colour, in dB below full scale
  scale: "mel", // of the frequency axis of the spectrogram: mel, linear, log
  fine: true, // a finer spectrogram where it is zoomed, and the frequencies above those of the model
  microphone: "", // id of the device that records; empty: that of the browser
  shares: "bars", // how confidences are drawn: bars, donut
  cam: false, // class activation over the spectrogram
  sharedScale: false, // one colour scale for all maps
  volume: 1,
  loop: false,
  speed: 1, // of the player
  example: true, // whether a visitor without sounds sees the example
};

/**
 * @typedef {typeof DEFAULTS} Values
 * @typedef {keyof Values} Key
 */

/** @returns {Partial<Values>} */
function stored() {
  try {
    const read = Object.entries(JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}"));
    return Object.fromEntries(
      read.filter(([key, value]) => typeof value === typeof DEFAULTS[/** @type {Key} */ (key)]),
    );
  } catch {
    return {}; // private windows have no storage, and what is stored may be of another version
  }
}

/** @extends {Emitter<{change: Key}>} */
class Settings extends Emitter {
  /** @type {Values} */
  #values = { ...DEFAULTS, ...stored() };

  /**
   * @template {Key} Name
   * @param {Name} key
   * @returns {Values[Name]}
   */
  get(key) {
    return this.#values[key];
  }

  /**
   * Emits `change` with the key.
   * @template {Key} Name
   * @param {Name} key
   * @param {Values[Name]} value
   */
  set(key, value) {
    if (this.#values[key] === value) return;
    this.#values[key] = value;
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.#values));
    } catch {
      // kept for as long as the page is open
    }
    this.emit("change", key);
  }

  /**
   * Call `listener` now and whenever one of `keys` changes.
   * @param {readonly Key[]} keys
   * @param {() => void} listener
   */
  watch(keys, listener) {
    this.on("change", (key) => {
      if (keys.includes(key)) listener();
    });
    listener();
  }
}

export const settings = new Settings();
