// The colours of a map, and the values that they stand for.

import { fullScaleOf, spectrogramScale } from "../signal/decibels.js";
import { formatNumber } from "../view/format.js";
import { valueRange } from "../signal/matrix.js";
import { settings } from "../state/settings.js";
import { isLayer } from "./graph.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { Table } from "../paint/colormaps.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Network, NetworkNode } from "./graph.js" */

/** Settings that change the colours of maps. */
export const COLOUR_SETTINGS = /** @type {const} */ (["mapColours", "sharedScale", "soundColours", "range", "loudest"]);

/** @type {WeakMap<Matrix[], {min: number, max: number}>} */
const channelRanges = new WeakMap();

/**
 * The map of a node with its own scale, or with one for all maps of the network; null where it has no map.
 * @param {NetworkNode} node
 * @param {Network} network
 * @returns {ScaledMatrix | null}
 */
export function scaledMap({ id, matrix, kind }, { nodes, card }) {
  if (!matrix) return null;
  const { min, max } = matrix.statistics;
  if (id === "input") {
    const zero = fullScaleOf(card.frontend);
    return { matrix, ...spectrogramScale(zero), zero, unit: "dBFS" };
  }
  const colours = settings.get("mapColours");
  if (kind === "cam") return { matrix, colours, min: 0, max: 1, smooth: true };
  if (kind === "input" || !settings.get("sharedScale")) return { matrix, colours, min, max };
  const maps = [...nodes.values()].filter(isLayer).flatMap((node) => node.matrix ?? []);
  return { matrix, colours, ...valueRange(maps) };
}

/**
 * A value of a map as it is shown.
 * @param {ScaledMatrix} scaled
 * @param {number} value
 */
export const valueText = ({ zero = 0, unit }, value) =>
  unit ? `${formatNumber(Number((value - zero).toFixed(1)))} ${unit}` : formatNumber(value);

/**
 * One channel with its own scale, or with one for all channels of its layer.
 * @param {Matrix[]} channels
 * @param {number} index
 * @returns {ScaledMatrix}
 */
export function scaledChannel(channels, index) {
  const matrix = channels[index];
  const { min, max } = settings.get("sharedScale") ? rangeOf(channels) : matrix.statistics;
  return { matrix, colours: settings.get("mapColours"), min, max };
}

/** @param {Matrix[]} channels */
function rangeOf(channels) {
  const range = channelRanges.get(channels) ?? valueRange(channels);
  channelRanges.set(channels, range);
  return range;
}

/**
 * A diverging colour map: negative is blue, zero is black, positive is amber. For values that are added.
 * @type {Table}
 */
export const diverging = Uint8Array.from({ length: 1_024 }, (_, i) => {
  const value = ((i >> 2) - 127.5) / 127.5;
  const share = Math.abs(value) ** 0.8;
  const [red, green, blue] = value < 0 ? [110, 190, 255] : [255, 190, 80];
  return [18 + share * (red - 18), 18 + share * (green - 18), 22 + share * (blue - 22), 255][i % 4];
});
