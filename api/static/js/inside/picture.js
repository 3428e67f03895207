// A matrix as a small picture that paints itself: when it comes into sight, and again only when it has changed.

import { h } from "../dom.js";
import { paint, ready } from "../paint/painter.js";
import { playhead } from "../playhead.js";

const BUDGET = 8; // ms of painting a frame, so that hundreds of pictures come without a stutter
const known = new WeakMap(); // element -> Picture
const dirty = new Set();
let frame = null;
let loaded = false;

const seen = new IntersectionObserver(
  (entries) => entries.forEach(({ target, isIntersecting }) => known.get(target)?.inSight(isIntersecting)),
  { rootMargin: "200px" },
);
const sized = new ResizeObserver((entries) => entries.forEach(({ target }) => known.get(target)?.touch()));
ready.then(() => {
  loaded = true;
  schedule();
});

function schedule() {
  if (loaded && dirty.size) frame ??= requestAnimationFrame(work);
}

function work() {
  frame = null;
  const begun = performance.now();
  for (const picture of dirty) {
    dirty.delete(picture);
    picture.paint();
    if (performance.now() - begun > BUDGET) break;
  }
  schedule();
}

export class Picture {
  #visible = false;
  #look = null;
  #cursor = null;

  /** `axes`: with them a cursor moves over it while the sound plays (see graph.js). */
  constructor({ axes = null, ...props } = {}) {
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.element = h("div", { class: "picture", ...props }, this.canvas);
    if (axes) {
      this.#cursor = h("div", { class: "cursor" });
      this.element.append(this.#cursor);
      playhead.addCursor(this.#cursor, (time) => (time - axes.start) / axes.seconds);
    }
    known.set(this.element, this);
    seen.observe(this.element);
    sized.observe(this.element);
  }

  /** What to paint: {matrix, colours, min, max, smooth}. */
  show(look) {
    this.#look = look;
    this.touch();
  }

  get look() {
    return this.#look;
  }

  touch() {
    if (!this.#visible || !this.#look) return;
    dirty.add(this);
    schedule();
  }

  /** Out of sight it gives its pixels back. */
  inSight(visible) {
    if (visible === this.#visible) return;
    this.#visible = visible;
    if (visible) this.touch();
    else this.canvas.width = 0;
  }

  paint() {
    if (!this.#visible || !this.#look) return;
    const { clientWidth, clientHeight } = this.element;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    paint(this.canvas, this.#look.matrix, this.#look);
  }

  /** It is gone from the page. */
  close() {
    if (this.#cursor) playhead.removeCursor(this.#cursor);
    seen.unobserve(this.element);
    sized.unobserve(this.element);
    dirty.delete(this);
  }
}
