// Where in the sound we are: one time for waveform, spectrogram and every map.

class Playhead extends EventTarget {
  time = 0; // seconds from the beginning of the sound
  duration = 0; // seconds
  playing = false;
  #cursors = new Map();
  #seek = () => {};

  /** The player says how to seek. */
  controlledBy(seek) {
    this.#seek = seek;
  }

  /** Go to a time; everything that shows the time follows. */
  seek(seconds) {
    this.#seek(Math.min(Math.max(seconds, 0), this.duration));
  }

  /** The player's news, once a frame while it plays. Dispatches `move`, and `state` when playing begins or ends. */
  at(time, duration, playing) {
    const started = playing !== this.playing;
    Object.assign(this, { time, duration, playing });
    for (const [element, place] of this.#cursors) put(element, place(time));
    this.dispatchEvent(new Event("move"));
    if (started) this.dispatchEvent(new Event("state"));
  }

  /**
   * Move an element with the time: `place(seconds)` is its distance from the left as a share of its parent's width,
   * hidden outside of 0 to 1. The element is as wide as its parent and draws its line on its left edge, so that moving it is
   * a transform, which the browser does without drawing anything again.
   */
  addCursor(element, place) {
    this.#cursors.set(element, place);
    put(element, place(this.time));
  }

  removeCursor(element) {
    this.#cursors.delete(element);
  }
}

function put(element, share) {
  const inside = share >= 0 && share <= 1;
  element.style.visibility = inside ? "visible" : "hidden";
  if (inside) element.style.transform = `translateX(${100 * share}%)`;
}

export const playhead = new Playhead();
