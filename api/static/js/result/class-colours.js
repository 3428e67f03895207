// One colour for each class that is heard in a sound: the same in the list of events, on the timeline and in its legend.

/** @import { Result } from "../server/types.js" */

/** @type {WeakMap<object, Map<string, number>>} */
const cached = new WeakMap(); // by the windows of a result, which all views of it share

/**
 * Class -> hue in degrees, each far from those before it: first the detected classes, then the first class of each window.
 * @param {Result} result
 * @returns {Map<string, number>}
 */
export function classHues(result) {
  const key = result.windows ?? result;
  const known = cached.get(key);
  if (known) return known;
  const names = [
    ...(result.detections ?? []).map((detection) => detection.class),
    ...(result.windows ?? []).filter(({ active }) => active !== false).map(({ predictions }) => predictions[0].class),
  ];
  const hues = new Map([...new Set(names)].map((name, i) => [name, Math.round((i * 137.508 + 210) % 360)]));
  cached.set(key, hues);
  return hues;
}

/**
 * The CSS colour of a hue in the current theme.
 * @param {number} hue
 */
export const hueColour = (hue) =>
  document.documentElement.dataset.theme === "light" ? `hsl(${hue} 58% 36%)` : `hsl(${hue} 62% 62%)`;
