// The part of the visitor's sound on which a channel responds: its map, enlarged, as the mask of the sound.

import { button, download, h } from "../view/dom.js";
import { makeFile, readAudio } from "../edit/audio.js";
import { maskSound } from "../edit/region.js";
import { clock, formatNumber } from "../view/format.js";
import { playhead } from "../state/playhead.js";
import { t } from "../words.js";

/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { MapAxes } from "./graph.js" */

const PEAK = 0.7; // of full scale, to which the masked sound is raised
const MOST_GAIN = 100; // 40 dB
const MOMENTS = 3;

/**
 * {element, close()}.
 * @param {Matrix} matrix  of the channel
 * @param {MapAxes} axes
 * @param {Sound} sound
 * @param {number} channel
 */
export function excites(matrix, axes, sound, channel) {
  /** @type {HTMLAudioElement | null} */
  let audio = null;
  /** @type {Promise<{file: File, gain: number}> | null} */
  let made = null;
  let closed = false;
  const text = h("p", { class: "muted", role: "status" });
  const play = button(t("excites.play"), "play", toggle);
  const save = button(t("excites.save"), "save", saveFile, { class: "quiet" });
  const moments = momentsOf(matrix, axes);
  const element = h(
    "div",
    { class: "excites" },
    h("div", { class: "tools" }, play, save),
    moments.length
      ? h(
          "p",
          { class: "moments" },
          h("span", { class: "muted", text: t("excites.moments") }),
          moments.map((time) => button(clock(time, 2), null, () => playhead.seek(time), { class: "link number" })),
        )
      : h("p", { class: "muted", text: t("excites.none") }),
    text,
  );
  const claimed = playhead.on("claim", (by) => {
    if (by !== audio) stop();
  });
  play.disabled = save.disabled = !sound.file || !moments.length;

  async function make() {
    const { file } = sound;
    if (!file) throw new Error(t("arithmetic.no_file"));
    const rate = sound.root.job?.audio.sample_rate ?? sound.root.result?.sample_rate;
    const { channels, rate: actual } = await readAudio(file, rate);
    const [first, last] = [Math.round(axes.start * actual), Math.round((axes.start + axes.seconds) * actual)];
    const gainAt = maskOf(matrix, axes);
    const masked = await Promise.all(channels.map((one) => maskSound(one.slice(first, last), actual, gainAt)));
    let peak = 0;
    for (const one of masked) for (const sample of one) peak = Math.max(peak, Math.abs(sample));
    const gain = peak ? Math.min(PEAK / peak, MOST_GAIN) : 1;
    for (const one of masked) for (let i = 0; i < one.length; i += 1) one[i] *= gain;
    const name = `${sound.name} channel ${channel}.wav`;
    return { file: makeFile({ rate: actual, channels: masked }, name, false), gain };
  }

  async function ready() {
    text.textContent = t("excites.computing");
    made ??= make();
    try {
      const { file, gain } = await made;
      text.textContent = t("excites.text", { gain: formatNumber(Math.round(20 * Math.log10(gain))) });
      return file;
    } catch (error) {
      made = null;
      text.textContent = error instanceof Error ? error.message : String(error);
      return null;
    }
  }

  async function toggle() {
    if (audio) return stop();
    const file = await ready();
    if (!file || closed) return;
    audio = new Audio(URL.createObjectURL(file));
    audio.addEventListener("ended", stop);
    playhead.emit("claim", audio);
    setLabel(t("excites.stop"), "stop");
    audio.play().catch(stop);
  }

  function stop() {
    if (!audio) return;
    audio.pause();
    URL.revokeObjectURL(audio.src);
    audio = null;
    setLabel(t("excites.play"), "play");
  }

  /**
   * @param {string} label
   * @param {string} iconName
   */
  function setLabel(label, iconName) {
    play.querySelector("use")?.setAttribute("href", `#icon-${iconName}`);
    const span = play.querySelector("span");
    if (span) span.textContent = label;
  }

  async function saveFile() {
    const file = await ready();
    if (file) download(file, file.name);
  }

  return {
    element,
    close() {
      closed = true;
      claimed();
      stop();
    },
  };
}

/**
 * How far a sound is let through, 0 to 1: the positive part of the map, linear between the middles of its cells.
 * @param {Matrix} matrix
 * @param {MapAxes} axes
 * @returns {(seconds: number, hertz: number) => number} time from the beginning of the window
 */
export function maskOf(matrix, { seconds, low, high, shareOf }) {
  const { rows, columns } = matrix;
  const most = Math.max(matrix.statistics.max, 1e-30);
  /** @type {(position: number, count: number) => [number, number, number]} */
  const between = (position, count) => {
    const at = Math.min(Math.max(position * count - 0.5, 0), count - 1);
    const first = Math.floor(at);
    return [first, Math.min(first + 1, count - 1), at - first];
  };
  return (time, hertz) => {
    if (hertz < low || hertz > high) return 0;
    const [row, nextRow, up] = between(shareOf(hertz), rows);
    const [column, nextColumn, right] = between(time / seconds, columns);
    const below = matrix.at(row, column) * (1 - right) + matrix.at(row, nextColumn) * right;
    const above = matrix.at(nextRow, column) * (1 - right) + matrix.at(nextRow, nextColumn) * right;
    return Math.min(Math.max(below * (1 - up) + above * up, 0) / most, 1);
  };
}

/**
 * The times at which a channel responds most, at least a tenth of the window apart, in their order.
 * @param {Matrix} matrix
 * @param {MapAxes} axes
 */
export function momentsOf({ rows, columns, values }, { start, seconds }) {
  const strengths = Array.from({ length: columns }, (_, column) => {
    let strength = 0;
    for (let row = 0; row < rows; row += 1) strength += Math.max(values[row * columns + column], 0);
    return strength;
  });
  /** @type {number[]} */
  const found = [];
  const order = strengths.map((_, i) => i).sort((a, b) => strengths[b] - strengths[a]);
  for (const column of order) {
    if (found.length === MOMENTS || strengths[column] <= 0.1 * strengths[order[0]] || !strengths[column]) break;
    if (found.every((one) => Math.abs(one - column) >= columns / 10)) found.push(column);
  }
  return found.sort((a, b) => a - b).map((column) => start + ((column + 0.5) / columns) * seconds);
}
