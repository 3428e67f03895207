// The part of the sound that another panel points at, such as the receptive field of one cell of a feature map.

import { Emitter } from "./emitter.js";

/** @import { SoundRegion } from "./types.js" */

/** @extends {Emitter<{change: null}>} */
class Highlight extends Emitter {
  /** @type {SoundRegion | null} */
  region = null;

  /**
   * Emits `change`.
   * @param {SoundRegion | null} region
   */
  set(region) {
    this.region = region;
    this.emit("change", null);
  }
}

export const highlight = new Highlight();
