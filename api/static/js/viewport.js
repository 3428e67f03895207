// Which part of the sound is on show: the same for waveform and spectrogram.

const SHORTEST = 0.05; // seconds
const NARROWEST = 0.02; // share of the frequency axis

class Viewport extends EventTarget {
  duration = 1; // seconds
  start = 0; // seconds
  end = 1;
  low = 0; // share of the frequency axis, 0 at the bottom
  high = 1;

  /** A new sound: everything is on show. */
  reset(duration = this.duration) {
    this.duration = Math.max(duration, SHORTEST);
    this.show(0, this.duration, 0, 1);
  }

  get whole() {
    return this.start === 0 && this.end === this.duration && this.low === 0 && this.high === 1;
  }

  /** Show a region, kept within the sound. Dispatches `change`. */
  show(start, end, low = this.low, high = this.high) {
    [this.start, this.end] = within(start, end, this.duration, Math.min(SHORTEST, this.duration));
    [this.low, this.high] = within(low, high, 1, NARROWEST);
    this.dispatchEvent(new Event("change"));
  }

  /** Zoom by a factor (below 1: closer) around a time and a share of the frequency axis. */
  zoom(factor, time, share = null) {
    const scaled = (from, to, around) => [around - (around - from) * factor, around + (to - around) * factor];
    const [low, high] = share === null ? [this.low, this.high] : scaled(this.low, this.high, share);
    this.show(...scaled(this.start, this.end, time), low, high);
  }

  pan(seconds, share = 0) {
    this.show(this.start + seconds, this.end + seconds, this.low + share, this.high + share);
  }

  /** Place of a time as a share of the width; below 0 or above 1 when it is out of sight. */
  place(seconds) {
    return (seconds - this.start) / (this.end - this.start);
  }

  /** Time at a share of the width. */
  timeAt(share) {
    return this.start + share * (this.end - this.start);
  }
}

function within(from, to, most, least) {
  const length = Math.min(Math.max(to - from, least), most);
  const middle = (from + to) / 2;
  const start = Math.min(Math.max(to - from < least ? middle - length / 2 : from, 0), most - length);
  return [start, start + length >= most - 1e-9 ? most : start + length];
}

export const viewport = new Viewport();
