// The visible region of the sound: one for waveform, spectrogram and timeline.

import { Emitter } from "./emitter.js";
import { FrequencyAxis } from "../sound/frequency-axis.js";

const MIN_SECONDS = 0.05;
const MIN_HEIGHT = 0.02; // share of the frequency axis

/** @extends {Emitter<{change: null}>} */
class Viewport extends Emitter {
  duration = 1; // seconds
  start = 0; // seconds
  end = 1; // seconds
  axis = new FrequencyAxis("mel", 0, 8_000); // of the frequencies
  low = 0; // share of the frequency axis, 0 at the bottom
  high = 1;

  /**
   * Show all of a sound.
   * @param {number} [duration]  seconds, of a new sound
   */
  reset(duration = this.duration) {
    this.duration = Math.max(duration, MIN_SECONDS);
    this.show(0, this.duration, 0, 1);
  }

  /**
   * Change the frequency axis and show all of it. Emits `change`, where it is another one.
   * @param {FrequencyAxis} axis
   */
  setAxis(axis) {
    if (axis.equals(this.axis)) return;
    this.axis = axis;
    this.show(this.start, this.end, 0, 1);
  }

  /** Whether all of the sound is visible. */
  get whole() {
    return this.start === 0 && this.end === this.duration && this.low === 0 && this.high === 1;
  }

  /**
   * Show a region, clamped to the sound. Emits `change`.
   * @param {number} start  seconds
   * @param {number} end  seconds
   * @param {number} [low]  share of the frequency axis
   * @param {number} [high]
   */
  show(start, end, low = this.low, high = this.high) {
    [this.start, this.end] = clamp(start, end, this.duration, Math.min(MIN_SECONDS, this.duration));
    [this.low, this.high] = clamp(low, high, 1, MIN_HEIGHT);
    this.emit("change", null);
  }

  /**
   * Zoom around a time and a share of the frequency axis.
   * @param {number} factor  below 1: closer
   * @param {number} time  seconds
   * @param {number | null} [share]  null: the frequency axis stays
   */
  zoom(factor, time, share = null) {
    /** @type {(from: number, to: number, around: number) => [number, number]} */
    const scaled = (from, to, around) => [around - (around - from) * factor, around + (to - around) * factor];
    const [low, high] = share === null ? [this.low, this.high] : scaled(this.low, this.high, share);
    this.show(...scaled(this.start, this.end, time), low, high);
  }

  /**
   * @param {number} seconds
   * @param {number} [share]  of the frequency axis
   */
  pan(seconds, share = 0) {
    this.show(this.start + seconds, this.end + seconds, this.low + share, this.high + share);
  }

  /**
   * Position of a time as a share of the width; below 0 or above 1 when it is not visible.
   * @param {number} seconds
   */
  position(seconds) {
    return (seconds - this.start) / (this.end - this.start);
  }

  /**
   * Time at a share of the width.
   * @param {number} share
   */
  timeAt(share) {
    return this.start + share * (this.end - this.start);
  }
}

/**
 * @param {number} from
 * @param {number} to
 * @param {number} most  length of the axis
 * @param {number} least  shortest region
 * @returns {[number, number]}
 */
function clamp(from, to, most, least) {
  const length = Math.min(Math.max(to - from, least), most);
  const middle = (from + to) / 2;
  const start = Math.min(Math.max(to - from < least ? middle - length / 2 : from, 0), most - length);
  return [start, start + length >= most - 1e-9 ? most : start + length];
}

export const viewport = new Viewport();
