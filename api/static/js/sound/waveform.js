// The waveform: for every pixel a line from the smallest to the largest sample.

import { formatNumber } from "../view/format.js";
import { viewport } from "../state/viewport.js";
import { clearedContext, fitToBox, themeColours } from "./canvas.js";
import { plot } from "./plot.js";
import { t } from "../words.js";

/** @import { ThemeColours } from "./canvas.js" */
/** @import { Peaks } from "./peaks.js" */

/**
 * {element, draw(peaks, duration, repeated)}.
 * @param {string} describedBy  id of the text that explains the pointer and the keys
 */
export function waveformPlot(describedBy) {
  const view = plot({ label: t("sound.waveform"), describedBy, name: "waveform" });

  /**
   * @param {Peaks | null} peaks
   * @param {number} duration  seconds of sound, without what is added for the model
   * @param {boolean} repeated  whether that is the sound again, and not silence
   */
  function draw(peaks, duration, repeated) {
    const peak = peaks?.peak || 1; // a silent sound has an axis too
    const most = formatNumber(Number(peak.toPrecision(2)));
    const ticks = [
      { position: 1, label: most },
      { position: 0.5, label: "0" },
      { position: 0, label: `−${most}` },
    ];
    view.draw(() => (peaks ? ticks : []));
    if (fitToBox(view.canvas)) paintWaveform(view.canvas, peaks, peak, duration, repeated);
  }

  return { element: view.element, draw };
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Peaks | null} peaks
 * @param {number} peak
 * @param {number} duration
 * @param {boolean} repeated
 */
function paintWaveform(canvas, peaks, peak, duration, repeated) {
  const { context, width, height } = clearedContext(canvas);
  const theme = themeColours();
  const middle = height / 2;
  const end = viewport.position(duration) * width;
  if (end < width) paintPadding(context, Math.max(end, 0), width, height, t(repeated ? "sound.repeated" : "sound.padding"), theme);
  if (!peaks) return;
  const scale = canvas.width / width;
  const { min, max } = peaks.read(viewport.start, viewport.end, canvas.width);
  const half = (middle - 1) / peak;
  context.fillStyle = theme.accent;
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

/**
 * Hatch what is added to a short sound for the model.
 * @param {CanvasRenderingContext2D} context
 * @param {number} from  px
 * @param {number} width
 * @param {number} height
 * @param {string} text
 * @param {ThemeColours} theme
 */
function paintPadding(context, from, width, height, text, { line, muted, font }) {
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
  Object.assign(context, { font: `11px ${font}`, fillStyle: muted, textBaseline: "middle" });
  if (context.measureText(text).width + 12 < width - from) context.fillText(text, from + 8, height / 2);
  context.restore();
}
