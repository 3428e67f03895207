// What a person chose on this page, remembered by the browser.

const KEY = "otoscope";
const DEFAULTS = {
  theme: "auto", // auto, light, dark
  model: "", // empty: the server's default
  soundColours: "magma",
  mapColours: "viridis",
  range: 80, // dB below the loudest cell that the spectrogram shows
  cam: false, // class activation over the spectrogram
  sharedScale: false, // one colour scale for all maps
  volume: 1,
  loop: false,
};

function stored() {
  try {
    const read = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return Object.fromEntries(Object.entries(read).filter(([key, value]) => typeof value === typeof DEFAULTS[key]));
  } catch {
    return {}; // private windows have no storage, and what is there may be of another version
  }
}

class Settings extends EventTarget {
  #values = { ...DEFAULTS, ...stored() };

  get(key) {
    return this.#values[key];
  }

  /** Dispatches `change` with the key as detail. */
  set(key, value) {
    if (this.#values[key] === value) return;
    this.#values[key] = value;
    try {
      localStorage.setItem(KEY, JSON.stringify(this.#values));
    } catch {
      // kept for as long as the page is open
    }
    this.dispatchEvent(new CustomEvent("change", { detail: key }));
  }

  /** Call `listener(value)` now and whenever one of `keys` changes. */
  watch(keys, listener) {
    const wanted = new Set([keys].flat());
    this.addEventListener("change", (event) => wanted.has(event.detail) && listener(this));
    listener(this);
  }
}

export const settings = new Settings();
