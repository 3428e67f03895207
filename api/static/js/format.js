// Numbers as people read them.

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)} %`;

export function bytes(count) {
  if (count < 1_000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1_000).toFixed(count < 10_000 ? 1 : 0)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

/** Seconds as 0:05.2, for a clock that counts. */
export function clock(seconds, digits = 1) {
  const scale = 10 ** digits;
  const whole = Math.round(Math.max(0, seconds) * scale) / scale;
  const rest = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return `${Math.floor(whole / 60)}:${rest}`;
}

/** A span of time in words: 5 s, 1 min 30 s, 24 ms. */
export function span(seconds) {
  if (seconds < 0.9995) return `${Math.round(seconds * 1_000)} ms`;
  if (seconds < 60) return `${Number(seconds.toFixed(seconds < 10 ? 1 : 0))} s`;
  const rest = Math.round(seconds % 60);
  return `${Math.floor(seconds / 60)} min${rest ? ` ${rest} s` : ""}`;
}

export const hertz = (value) =>
  value < 1_000 ? `${Math.round(value)} Hz` : `${Number((value / 1_000).toFixed(value < 10_000 ? 2 : 1))} kHz`;

/** A class name as people write it: crying_baby -> crying baby. */
export const className = (name) => name.replaceAll("_", " ");

/** A measured value with four digits at most. */
export const value = (number) => (Number.isFinite(number) ? String(Number(number.toPrecision(4))) : "–");
