// The waveform: for every pixel a line from the smallest to the largest sample.

import { value } from "../format.js";
import { viewport } from "../viewport.js";
import { fit, inks, pen } from "./ink.js";
import { plot } from "./plot.js";

/** {element, draw(peaks, duration)}: Peaks or null, and how many seconds there is sound. */
export function waveform(describe) {
  const view = plot({ label: "Waveform", describe, name: "waveform" });

  function draw(peaks, duration) {
    const peak = peaks?.peak || 1; // a silent sound has a scale too
    const most = value(Number(peak.toPrecision(2)));
    const ticks = [
      { place: 1, label: most },
      { place: 0.5, label: "0" },
      { place: 0, label: `−${most}` },
    ];
    view.draw(() => (peaks ? ticks : []));
    if (!fit(view.picture)) return;
    paintWaveform(pen(view.picture), peaks, peak, duration);
  }

  return { element: view.element, draw };
}

function paintWaveform({ context, width, height }, peaks, peak, duration) {
  const ink = inks();
  const middle = height / 2;
  const end = viewport.place(duration) * width;
  if (end < width) padding(context, Math.max(end, 0), width, height, ink);
  if (!peaks) return;
  const scale = context.getTransform().a;
  const { min, max } = peaks.read(viewport.start, viewport.end, context.canvas.width);
  const half = (middle - 1) / peak;
  context.fillStyle = ink.accent;
  context.beginPath();
  for (let x = 0; x < min.length; x += 1) {
    if (!(max[x] >= min[x])) continue; // beyond the sound
    // At least as thick as a line, and joined to the pixel before: no gap where one sample is many pixels.
    const joined = x > 0 && max[x - 1] >= min[x - 1];
    const high = joined ? Math.max(max[x], min[x - 1]) : max[x];
    const low = joined ? Math.min(min[x], max[x - 1]) : min[x];
    const top = middle - high * half;
    context.rect(x / scale, top - 0.5, 1 / scale, Math.max((high - low) * half, 0) + 1);
  }
  context.fill();
}

/** Where the model hears silence after the end of a short sound. */
export function padding(context, from, width, height, { line, muted, font }) {
  context.save();
  context.beginPath();
  context.rect(from, 0, width - from, height);
  context.clip();
  context.strokeStyle = line;
  context.beginPath();
  for (let x = from - height; x < width; x += 8) {
    context.moveTo(x, height);
    context.lineTo(x + height, 0);
  }
  context.stroke();
  const words = "silence, added for the model";
  Object.assign(context, { font: `11px ${font}`, fillStyle: muted, textBaseline: "middle" });
  if (context.measureText(words).width + 12 < width - from) context.fillText(words, from + 8, height / 2);
  context.restore();
}
