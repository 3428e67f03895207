// The spectrum of the sound while it is recorded: a ring of columns, one for each few milliseconds.

import { FFT } from "../edit/fft.js";
import { colourTable } from "../paint/colormaps.js";
import { context2d, h } from "../view/dom.js";
import { toHertz, toMel } from "../signal/mel.js";

const SIZE = 1_024; // samples of a frame
const ROWS = 96; // bands, evenly spaced in mel

export class LiveSpectrogram {
  #fft = new FFT(SIZE);
  #real = new Float64Array(SIZE);
  #imaginary = new Float64Array(SIZE);
  #window = Float64Array.from({ length: SIZE }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / SIZE));
  #frame = new Float32Array(SIZE); // the last samples
  #filled = 0; // new samples since the last column
  #columns = 0; // so far
  /** First and last bin of each band. @type {[number, number][]} */
  #bands;
  #column = new ImageData(1, ROWS);

  /**
   * @param {number} rate  Hz
   * @param {number} seconds  that are kept
   * @param {number} highest  Hz, of the picture
   */
  constructor(rate, seconds, highest) {
    this.hop = SIZE / 2;
    this.rate = rate;
    this.highest = Math.min(highest, rate / 2);
    this.ring = h("canvas", { width: Math.ceil((seconds * rate) / this.hop) + 2, height: ROWS });
    this.context = context2d(this.ring);
    const top = toMel(this.highest);
    this.#bands = Array.from({ length: ROWS }, (_, row) => {
      const [low, high] = [row, row + 1].map((edge) => (toHertz((edge / ROWS) * top) * SIZE) / rate);
      return [Math.max(1, Math.floor(low)), Math.max(1, Math.ceil(high) - 1, Math.floor(low))];
    });
  }

  /** Seconds of sound in the columns so far. */
  get seconds() {
    return (this.#columns * this.hop) / this.rate;
  }

  /**
   * Where a frequency is, as a share of the height from below.
   * @param {number} hertz
   */
  place(hertz) {
    return toMel(hertz) / toMel(this.highest);
  }

  /**
   * @param {Float32Array} samples
   * @param {{colours: import("../server/types.js").Colormap, min: number, max: number}} scale  in dBFS
   */
  add(samples, scale) {
    let at = 0;
    while (at < samples.length) {
      const taken = Math.min(this.hop - this.#filled, samples.length - at);
      this.#frame.copyWithin(0, taken);
      this.#frame.set(samples.subarray(at, at + taken), SIZE - taken);
      this.#filled += taken;
      at += taken;
      if (this.#filled < this.hop) return;
      this.#filled = 0;
      this.#addColumn(scale);
    }
  }

  /** @param {{colours: import("../server/types.js").Colormap, min: number, max: number}} scale */
  #addColumn({ colours, min, max }) {
    for (let i = 0; i < SIZE; i += 1) this.#real[i] = this.#frame[i] * this.#window[i];
    this.#imaginary.fill(0);
    this.#fft.transform(this.#real, this.#imaginary);
    const table = colourTable(colours);
    const { data } = this.#column;
    this.#bands.forEach(([first, last], row) => {
      let power = 1e-20;
      for (let bin = first; bin <= last; bin += 1) {
        power = Math.max(power, this.#real[bin] ** 2 + this.#imaginary[bin] ** 2);
      }
      const level = 10 * Math.log10(power / (SIZE / 4) ** 2); // dBFS: a sine at full scale has 0
      const colour = 4 * Math.round(255 * Math.min(Math.max((level - min) / (max - min), 0), 1));
      const pixel = 4 * (ROWS - 1 - row);
      data.set(table.subarray(colour, colour + 3), pixel);
      data[pixel + 3] = 255;
    });
    this.context.putImageData(this.#column, this.#columns % this.ring.width, 0);
    this.#columns += 1;
  }

  /**
   * Draw the columns of a stretch of time.
   * @param {CanvasRenderingContext2D} target
   * @param {number} start  seconds
   * @param {number} end  seconds
   */
  draw(target, start, end) {
    const { width, height } = target.canvas;
    const [first, last] = [start, end].map((time) => (time * this.rate) / this.hop);
    const scale = width / (last - first); // pixels of a column
    let from = Math.max(0, Math.floor(first), this.#columns - this.ring.width + 1);
    const to = Math.min(this.#columns, Math.ceil(last));
    while (from < to) {
      const place = from % this.ring.width;
      const count = Math.min(to - from, this.ring.width - place);
      target.drawImage(this.ring, place, 0, count, ROWS, (from - first) * scale, 0, count * scale, height);
      from += count;
    }
  }
}
