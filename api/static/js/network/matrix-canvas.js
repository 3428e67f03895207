// A matrix as an image that paints itself: when it becomes visible, and again only when it has changed.

import { h } from "../view/dom.js";
import { paint, ready } from "../paint/painter.js";
import { playhead } from "../state/playhead.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { MapAxes } from "./graph.js" */

const BUDGET = 8; // ms of painting in a frame, so that hundreds of images appear without a stutter
/** @type {WeakMap<Element, MatrixCanvas>} */
const instances = new WeakMap();
/** @type {Set<MatrixCanvas>} */
const dirty = new Set();
/** @type {number | null} */
let frame = null;
let loaded = false;

const visibility = new IntersectionObserver(
  (entries) => entries.forEach(({ target, isIntersecting }) => instances.get(target)?.setVisible(isIntersecting)),
  { rootMargin: "200px" },
);
const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => instances.get(target)?.invalidate()));
ready.then(() => {
  loaded = true;
  schedule();
});

function schedule() {
  if (loaded && dirty.size) frame ??= requestAnimationFrame(paintDirty);
}

function paintDirty() {
  frame = null;
  const begun = performance.now();
  for (const canvas of dirty) {
    dirty.delete(canvas);
    canvas.paint();
    if (performance.now() - begun > BUDGET) break;
  }
  schedule();
}

export class MatrixCanvas {
  #visible = false;
  /** @type {ScaledMatrix | null} */
  #scaled = null;
  /** @type {HTMLElement | null} */
  #cursor = null;

  /** @param {MapAxes | null} [axes]  with them, a cursor moves over the image while the sound plays */
  constructor(axes = null) {
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.element = h("div", { class: "matrix" }, this.canvas);
    if (axes) {
      this.#cursor = h("div", { class: "cursor" });
      this.element.append(this.#cursor);
      playhead.addCursor(this.#cursor, (time) => (time - axes.start) / axes.seconds);
    }
    instances.set(this.element, this);
    visibility.observe(this.element);
    sizes.observe(this.element);
  }

  /** @param {ScaledMatrix} scaled  what to paint */
  show(scaled) {
    this.#scaled = scaled;
    this.invalidate();
  }

  invalidate() {
    if (!this.#visible || !this.#scaled) return;
    dirty.add(this);
    schedule();
  }

  /**
   * An image that is not visible frees its pixels.
   * @param {boolean} visible
   */
  setVisible(visible) {
    if (visible === this.#visible) return;
    this.#visible = visible;
    if (visible) this.invalidate();
    else this.canvas.width = 0;
  }

  paint() {
    if (!this.#visible || !this.#scaled) return;
    const { clientWidth, clientHeight } = this.element;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    paint(this.canvas, this.#scaled.matrix, this.#scaled);
  }

  /** To be called when it is removed from the page. */
  close() {
    if (this.#cursor) playhead.removeCursor(this.#cursor);
    visibility.unobserve(this.element);
    sizes.unobserve(this.element);
    dirty.delete(this);
  }
}
