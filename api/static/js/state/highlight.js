// The part of the sound that another panel points at, such as the receptive field of one cell of a feature map.

import { Emitter } from "./emitter.js";

/** @import { Region } from "../edit/region.js" */

/** @extends {Emitter<{change: null}>} */
class Highlight extends Emitter {
  /** @type {Region | null} */
  region = null;

  /**
   * Emits `change`.
   * @param {Region | null} region
   */
  set(region) {
    this.region = region;
    this.emit("change", null);
  }
}

export const highlight = new Highlight();
