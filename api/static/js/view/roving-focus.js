// One tab stop for several elements, and the keys that move between them (roving tabindex).
// https://www.w3.org/WAI/ARIA/apg/practices/keyboard-interface/#kbd_roving_tabindex

/**
 * Make one of several elements their tab stop.
 * @param {Iterable<HTMLElement>} elements
 * @param {HTMLElement} stop
 */
export function setTabStop(elements, stop) {
  for (const one of elements) one.tabIndex = one === stop ? 0 : -1;
}

/**
 * The index that a key leads to, the same one at the ends; null for a key that does not move, or with Ctrl, Alt or Meta.
 * @param {KeyboardEvent} event
 * @param {number} at  the index now
 * @param {number} count  of the elements
 * @param {number} [columns]  of a grid
 */
export function nextIndex({ key, ctrlKey, metaKey, altKey }, at, count, columns = 1) {
  if (ctrlKey || metaKey || altKey) return null;
  /** @type {Record<string, number>} */
  const targets = {
    ArrowLeft: at - 1,
    ArrowRight: at + 1,
    ArrowUp: at - columns,
    ArrowDown: at + columns,
    Home: 0,
    End: count - 1,
  };
  if (!Object.hasOwn(targets, key)) return null;
  const target = targets[key];
  return target >= 0 && target < count ? target : at;
}
