// Typed events: an EventTarget whose events carry a detail of a known type.

/** @template {Record<string, any>} Details  name of an event -> type of its detail */
export class Emitter extends EventTarget {
  /**
   * Call `listener(detail)` at every event of that name. Returns a function that unsubscribes.
   * @template {keyof Details & string} Name
   * @param {Name} name
   * @param {(detail: Details[Name]) => void} listener
   * @param {{once?: boolean}} [options]
   * @returns {() => void}
   */
  on(name, listener, options) {
    /** @param {Event} event */
    const called = (event) => listener(/** @type {CustomEvent<Details[Name]>} */ (event).detail);
    this.addEventListener(name, called, options);
    return () => this.removeEventListener(name, called);
  }

  /**
   * @template {keyof Details & string} Name
   * @param {Name} name
   * @param {Details[Name]} detail
   */
  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
