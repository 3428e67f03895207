// The pictures of a comparison: matrices over the same time, with one cursor position and, where they are spectrograms, axes.

import { h } from "../view/dom.js";
import { paint, ready } from "../paint/painter.js";
import { frequencyTicks, timeTicks } from "../sound/axes.js";

/** @import { ColourScale, MatrixRegion } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { FrequencyAxis } from "../sound/frequency-axis.js" */

/**
 * @typedef {object} Picture  a matrix with a cursor
 * @property {HTMLCanvasElement} canvas
 * @property {HTMLElement} cursor
 * @property {Matrix} matrix
 * @property {() => ColourScale} scale
 * @property {MatrixRegion} [region]
 * @property {number} start  seconds at its left edge
 * @property {number} seconds  that it shows
 * @property {boolean} smooth
 */

const HEIGHT = 180; // px, of a spectrogram, for the distance of its ticks
const WIDTH = 480;

/**
 * {add(label, picture), addWithAxes(label, axis, low, high, picture), moveTo(time), repaint()}.
 * @param {(seconds: number) => void} onSeek  gets the time that is clicked
 */
export function pictureList(onSeek) {
  /** @type {Picture[]} */
  const pictures = [];

  /**
   * @param {string} label
   * @param {Omit<Picture, "canvas" | "cursor">} options
   */
  function add(label, options) {
    const canvas = h("canvas", { role: "img", "aria-label": label });
    const cursor = h("div", { class: "cursor", hidden: true });
    const frame = h("div", { class: "picture" }, canvas, cursor);
    frame.addEventListener("click", (event) => {
      const { left, width } = frame.getBoundingClientRect();
      onSeek(options.start + ((event.clientX - left) / width) * options.seconds);
    });
    pictures.push({ canvas, cursor, ...options });
    return frame;
  }

  return {
    add,
    /**
     * @param {string} label
     * @param {FrequencyAxis} axis  of the matrix
     * @param {number} low  Hz, at the bottom of the picture
     * @param {number} high  Hz
     * @param {Omit<Picture, "canvas" | "cursor">} options
     */
    addWithAxes(label, axis, low, high, options) {
      /** @type {(name: string, side: "bottom" | "left", ticks: {position: number, label: string}[]) => HTMLElement} */
      const scale = (name, side, ticks) =>
        h(
          "div",
          { class: name, "aria-hidden": "true" },
          ticks.map(({ position, label: text }) => {
            const tick = h("span", { text });
            tick.style[side] = `${100 * position}%`;
            return tick;
          }),
        );
      const frequencies = frequencyTicks(axis.shareOf(low), axis.shareOf(high), HEIGHT, axis);
      const times = timeTicks(options.start, options.start + options.seconds, WIDTH);
      return h("div", { class: "axes" }, scale("frequency", "bottom", frequencies), add(label, options), scale("time", "left", times));
    },
    /** @param {number} time  seconds */
    moveTo(time) {
      for (const { cursor, start, seconds } of pictures) {
        const share = (time - start) / seconds;
        cursor.hidden = share < 0 || share > 1;
        cursor.style.transform = `translateX(${100 * share}%)`;
      }
    },
    /** Paint those that are visible. */
    repaint() {
      ready.then(() => {
        for (const { canvas, matrix, scale, region, smooth } of pictures) {
          const { clientWidth, clientHeight } = canvas;
          if (!clientWidth) continue;
          canvas.width = Math.round(clientWidth * devicePixelRatio);
          canvas.height = Math.round(clientHeight * devicePixelRatio);
          paint(canvas, matrix, { ...scale(), ...(region ? { region } : {}), smooth });
        }
      });
    },
  };
}
