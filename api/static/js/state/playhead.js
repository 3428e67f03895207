// The playback position: one time for waveform, spectrogram and every feature map.

import { Emitter } from "./emitter.js";

/** `claim`: that player plays now, and every other one stops. @extends {Emitter<{move: null, state: null, claim: object}>} */
class Playhead extends Emitter {
  time = 0; // seconds from the beginning of the sound
  duration = 0; // seconds
  playing = false;
  /** @type {Map<HTMLElement, (seconds: number) => number>} */
  #cursors = new Map();
  /** @type {(seconds: number) => void} */
  #seek = () => {};

  /**
   * Set the function that seeks; the player has it.
   * @param {(seconds: number) => void} seek
   */
  setSeek(seek) {
    this.#seek = seek;
  }

  /**
   * Seek; whatever shows the time follows.
   * @param {number} seconds
   */
  seek(seconds) {
    this.#seek(Math.min(Math.max(seconds, 0), this.duration));
  }

  /**
   * Called by the player, once a frame while it plays. Emits `move`, and `state` when playing begins or ends.
   * @param {number} time
   * @param {number} duration
   * @param {boolean} playing
   */
  update(time, duration, playing) {
    const changed = playing !== this.playing;
    Object.assign(this, { time, duration, playing });
    for (const [element, position] of this.#cursors) place(element, position(time));
    this.emit("move", null);
    if (changed) this.emit("state", null);
  }

  /**
   * Move an element with the time. The element is as wide as its parent and draws its line on its left edge, so that moving
   * it is a transform, which the browser does without repainting.
   * @param {HTMLElement} element
   * @param {(seconds: number) => number} position  from the left, as a share of the parent's width; hidden outside of 0 to 1
   */
  addCursor(element, position) {
    this.#cursors.set(element, position);
    place(element, position(this.time));
  }

  /** @param {HTMLElement} element */
  removeCursor(element) {
    this.#cursors.delete(element);
  }
}

/**
 * @param {HTMLElement} element
 * @param {number} share
 */
function place(element, share) {
  const visible = share >= 0 && share <= 1;
  element.style.visibility = visible ? "visible" : "hidden";
  if (visible) element.style.transform = `translateX(${100 * share}%)`;
}

export const playhead = new Playhead();
