// Numbers in rows and columns, as the server sends them: little-endian float16, row-major.

const halves = new Float32Array(65_536); // float16 bits -> value
for (let bits = 0; bits < 65_536; bits += 1) {
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1_024;
  const size =
    exponent === 0
      ? fraction * 2 ** -14
      : exponent === 31
        ? fraction
          ? NaN
          : Infinity
        : (1 + fraction) * 2 ** (exponent - 15);
  halves[bits] = bits & 0x8000 ? -size : size;
}

/** `rows` × `columns` numbers; row 0 is the lowest frequency, column 0 the beginning. */
export class Matrix {
  /** `values`: Float32Array of rows × columns. */
  constructor(rows, columns, values) {
    this.rows = rows;
    this.columns = columns;
    this.values = values;
  }

  at(row, column) {
    return this.values[row * this.columns + column];
  }

  /** {min, max, mean, sparsity}: sparsity is the share of values that are exactly zero. Computed once. */
  get statistics() {
    if (!this.known) {
      let min = Infinity,
        max = -Infinity,
        sum = 0,
        zeros = 0;
      for (const value of this.values) {
        if (value < min) min = value;
        if (value > max) max = value;
        if (value === 0) zeros += 1;
        sum += value;
      }
      this.known = { min, max, mean: sum / this.values.length, sparsity: zeros / this.values.length };
    }
    return this.known;
  }
}

/** {shape, data} of a result -> Float32Array. */
export function floats({ data }) {
  const bits = new Uint16Array(data.slice().buffer); // a copy: the bytes may lie at an odd place
  return Float32Array.from(bits, (half) => halves[half]);
}

/** {shape: [rows, columns], data} -> Matrix. */
export function matrix(packed) {
  return new Matrix(...packed.shape, floats(packed));
}

/** {shape: [channels, rows, columns], data} -> a Matrix for each channel; they share one buffer. */
export function channels(packed) {
  const [count, rows, columns] = packed.shape;
  const all = floats(packed);
  const size = rows * columns;
  return Array.from({ length: count }, (_, i) => new Matrix(rows, columns, all.subarray(i * size, (i + 1) * size)));
}
