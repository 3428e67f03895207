// The fast Fourier transform, in place, for sizes that are powers of two (Cooley and Tukey, 1965, radix 2).

export class FFT {
  /** Position of each value after the bits of its index are reversed. @type {Uint32Array} */
  #reversed;
  /** @type {Float64Array} */
  #cosines;
  /** @type {Float64Array} */
  #sines;

  /** @param {number} size  a power of two */
  constructor(size) {
    this.size = size;
    const bits = Math.log2(size);
    if (!Number.isInteger(bits)) throw new Error(`The size of an FFT must be a power of two, not ${size}.`);
    this.#reversed = new Uint32Array(size);
    for (let i = 1; i < size; i += 1) this.#reversed[i] = (this.#reversed[i >> 1] >> 1) | ((i & 1) << (bits - 1));
    this.#cosines = Float64Array.from({ length: size / 2 }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.#sines = Float64Array.from({ length: size / 2 }, (_, i) => Math.sin((2 * Math.PI * i) / size));
  }

  /**
   * The transform, not scaled. With real and imaginary parts exchanged it is the inverse, times the size.
   * @param {Float64Array} real
   * @param {Float64Array} imaginary
   */
  transform(real, imaginary) {
    const { size } = this;
    const [reversed, cosines, sines] = [this.#reversed, this.#cosines, this.#sines];
    for (let i = 0; i < size; i += 1) {
      const j = reversed[i];
      if (j <= i) continue;
      const r = real[i];
      const x = imaginary[i];
      real[i] = real[j];
      imaginary[i] = imaginary[j];
      real[j] = r;
      imaginary[j] = x;
    }
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let first = 0; first < size; first += 2 * half) {
        for (let k = 0, at = first; k < half; k += 1, at += 1) {
          const other = at + half;
          const cosine = cosines[k * step];
          const sine = sines[k * step];
          const x = real[other] * cosine + imaginary[other] * sine;
          const y = imaginary[other] * cosine - real[other] * sine;
          real[other] = real[at] - x;
          imaginary[other] = imaginary[at] - y;
          real[at] += x;
          imaginary[at] += y;
        }
      }
    }
  }
}
