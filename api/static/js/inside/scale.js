// Which colours a picture has, and what values they stand for.

import { settings } from "../settings.js";
import { bounds } from "./graph.js";

/** Settings that change how maps look. */
export const LOOK = ["mapColours", "sharedScale", "soundColours", "range"];

/** {matrix, colours, min, max} of a node's map: its own scale, or one for all maps of the network. */
export function look(node, { nodes }) {
  const { matrix, kind } = node;
  const { min, max } = matrix.statistics;
  if (kind === "input")
    return { matrix, colours: settings.get("soundColours"), min: Math.max(min, max - settings.get("range")), max };
  const colours = settings.get("mapColours");
  if (kind === "cam") return { matrix, colours, min: 0, max: 1, smooth: true };
  if (!settings.get("sharedScale")) return { matrix, colours, min, max };
  const layers = [...nodes.values()].filter((one) => one.matrix && !["input", "cam"].includes(one.kind));
  return { matrix, colours, ...bounds(layers.map((one) => one.matrix)) };
}

/** The same of one channel; shared is over the channels of its layer. */
export function channelLook(matrix, channels) {
  const { min, max } = settings.get("sharedScale") ? (channels.bounds ??= bounds(channels)) : matrix.statistics;
  return { matrix, colours: settings.get("mapColours"), min, max };
}

/** Less than zero is blue, zero is black, more is amber: for what is added and can also take away. */
export const signed = Uint8Array.from({ length: 1_024 }, (_, i) => {
  const from = ((i >> 2) - 127.5) / 127.5;
  const share = Math.abs(from) ** 0.8;
  const [red, green, blue] = from < 0 ? [110, 190, 255] : [255, 190, 80];
  return [18 + share * (red - 18), 18 + share * (green - 18), 22 + share * (blue - 22), 255][i % 4];
});
