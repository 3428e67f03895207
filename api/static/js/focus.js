// The part of the sound that something on the page is about: what one cell of a map can hear, say.

class Focus extends EventTarget {
  region = null; // {start, end} in seconds of the sound, {low, high} as shares of the frequency axis; or null

  /** Dispatches `change`. */
  set(region) {
    this.region = region;
    this.dispatchEvent(new Event("change"));
  }
}

export const focus = new Focus();
