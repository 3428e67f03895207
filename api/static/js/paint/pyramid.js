// A matrix as the painters keep it: 8 bits a value, and again with columns halved, and halved again.
// Only columns are halved: ten minutes are thirty thousand columns and still no more than a hundred rows or so.

const NARROW = 64; // columns: what is no wider is not halved

/** {rows, min, span, levels: [{columns, bytes}]}: a value is min + span × byte / 255. Levels are means of the one before. */
export function pyramid(matrix) {
  const { min, max } = matrix.statistics;
  const span = max > min ? max - min : 1;
  const { values } = matrix;
  const bytes = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i += 1) bytes[i] = (255 * (values[i] - min)) / span + 0.5;
  const levels = [{ columns: matrix.columns, bytes }];
  while (levels.at(-1).columns > NARROW) levels.push(halved(levels.at(-1), matrix.rows));
  return { rows: matrix.rows, min, span, levels };
}

function halved({ columns, bytes }, rows) {
  const half = Math.ceil(columns / 2);
  const means = new Uint8Array(half * rows);
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < half; column += 1) {
      const at = row * columns + 2 * column;
      const next = 2 * column + 1 < columns ? at + 1 : at;
      means[row * half + column] = (bytes[at] + bytes[next] + 1) >> 1;
    }
  }
  return { columns: half, bytes: means };
}

/**
 * How to read a region (shares, see painter.js) onto width × height pixels: which level, and what part of it in columns and
 * rows. `across` and `up` are how many columns and rows one pixel covers.
 */
export function reading({ rows, levels }, { left, right, bottom, top }, width, height) {
  const whole = (right - left) * levels[0].columns;
  const level = Math.min(Math.max(Math.floor(Math.log2(whole / width)), 0), levels.length - 1);
  const scale = levels[0].columns / 2 ** level;
  return {
    level,
    left: left * scale,
    bottom: bottom * rows,
    across: ((right - left) * scale) / width,
    up: ((top - bottom) * rows) / height,
    end: scale, // the last column's right edge: half a column short of the level's own where there was an odd one
  };
}
