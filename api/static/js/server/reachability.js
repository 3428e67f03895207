// Whether the server responds.

import { Emitter } from "../state/emitter.js";
import { ping, Refused } from "./api.js";

/** @extends {Emitter<{reachable: null, unreachable: null}>} */
class Reachability extends Emitter {
  #reachable = true;

  /** Poll the server until it responds. Emits `unreachable` at once and `reachable` then. */
  async waitForServer() {
    if (!this.#reachable) return;
    this.#reachable = false;
    this.emit("unreachable", null);
    while (!this.#reachable) {
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      this.#reachable = await ping().then(
        () => true,
        (error) => error instanceof Refused,
      );
    }
    this.emit("reachable", null);
  }
}

export const reachability = new Reachability();

/**
 * What is loaded when it is first needed. Where that fails, the page says that the server does not respond, until it does.
 * @template T
 * @param {Promise<T>} part
 * @returns {Promise<T | null>}
 */
export const loadPart = (part) =>
  part.catch(() => {
    reachability.waitForServer();
    return null;
  });
