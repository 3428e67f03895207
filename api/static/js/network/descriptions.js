// What each node of a network computes, in a sentence that is true of the network at hand.

import { className, formatDuration, formatHertz } from "../view/format.js";
import { inputOf, nodeOf } from "./graph.js";
import { language, t } from "../words.js";

/** @import { ModelCard } from "../server/types.js" */
/** @import { MapAxes, Network, NetworkNode } from "./graph.js" */

/** @type {(key: import("../words.js").Key, number: number) => string} */
const count = (key, number) => t(key, { count: number, number: number.toLocaleString(language) });

/**
 * 32 channels of 16 × 32 cells.
 * @param {number[]} shape
 */
export const shapeText = ([channels, rows, columns]) => t("describe.shape", { channels: count("count.channels", channels), rows, columns });

/**
 * What a node computes.
 * @param {NetworkNode} node
 * @param {Network} network
 */
export function describe(node, network) {
  const { card, axes, pooled, camClass } = network;
  switch (node.kind) {
    case "input": {
      const step = formatDuration(card.frontend.hop / card.sample_rate);
      return t("describe.input", { mels: axes.mels, low: formatHertz(axes.low), high: formatHertz(axes.high), step });
    }
    case "stem":
      if (inPatches(card)) {
        return t("describe.stem_patches", { seconds: formatDuration(patchSeconds(network)), filters: node.shape[0] });
      }
      return t(isInverted(card) ? "describe.stem_small" : "describe.stem", { filters: node.shape[0] });
    case "residual": {
      const shortcut =
        node.shortcut === "identity"
          ? t("describe.identity")
          : t("describe.projection", { shape: projectionText(node, inputOf(network, node)) });
      return t("describe.residual", { gates: gateText(card), shortcut });
    }
    case "plain": {
      const input = inputOf(network, node);
      if (inPatches(card)) {
        return t("describe.separable", {
          channels: count("count.channels", input.shape[0]),
          half: shrinks(node, input) ? t("describe.half") : "",
          outputs: node.shape[0].toLocaleString(language),
        });
      }
      const values = { channels: count("count.channels", input.shape[0]), outputs: node.shape[0] };
      if (isInverted(card)) {
        // A block has at most twice the channels of its input; only the last convolution has more.
        if (node.shape[0] >= 4 * input.shape[0]) return t("describe.mixed", values);
        return t("describe.inverted", { ...values, half: shrinks(node, input) ? t("describe.half") : "" });
      }
      if (!shrinks(node, input)) return t("describe.plain", values);
      return t(card.architecture.type === "cnn14" ? "describe.averaged" : "describe.pooled", values);
    }
    case "stage": {
      const values = { backbone: card.architecture.backbone ?? t("describe.network"), shape: shapeText(node.shape) };
      return t(shrinks(node, inputOf(network, node)) ? "describe.stage_lower" : "describe.stage", values);
    }
    case "cam":
      return t("describe.cam", { layer: node.inputs[0].split(".")[0], class: camClass });
    case "pool": {
      if (pooled.length > 1) {
        const left = count("count.numbers", (card.architecture.pyramid_width ?? 0) * pooled.length);
        return t("describe.pyramid", { left });
      }
      const poolsMaxima = card.architecture.type === "cnn14" || card.architecture.type === "mobilenet-v2";
      if (poolsMaxima || isInverted(card)) {
        const channels = count("count.channels", nodeOf(network, pooled[0]).shape[0]);
        return t(poolsMaxima ? "describe.pool_maxima" : "describe.pool_linear", { channels });
      }
      const left = count("count.numbers", nodeOf(network, pooled[0]).shape[0]);
      const { patch_frames: size, patch_hop: hop } = card.architecture;
      const overlapping = size && hop && hop < size ? t("describe.overlapping") : "";
      return t("describe.pool", { overlapping, left });
    }
    default: {
      const hidden = card.architecture.head?.length ?? 0;
      const layers = t("describe.linear", { count: hidden + 1 });
      const classes = count("count.classes", card.classes.length);
      return t(card.multi_label ? "describe.sigmoid" : "describe.softmax", { layers, classes });
    }
  }
}

/** Whether a network takes the spectrogram in patches, as MobileNet-v1 does. @param {ModelCard} card */
const inPatches = ({ architecture }) => architecture.type === "mobilenet-v1";

/** Whether a network has inverted residual blocks. @param {ModelCard} card */
const isInverted = ({ architecture: { type } }) => type === "mobilenet-v2" || type === "mobilenet-v3";

/** Seconds of a patch. @param {Network} network */
const patchSeconds = ({ card, axes }) => ((card.architecture.patch_frames ?? axes.frames) * card.frontend.hop) / card.sample_rate;

/** @param {ModelCard} card */
const gateText = ({ architecture }) =>
  architecture.squeeze_excitation
    ? t("describe.gates")
    : "";

/**
 * @param {NetworkNode} node
 * @param {NetworkNode} input
 */
const shrinks = ({ shape }, input) => input.shape[1] > shape[1];

/**
 * What a projection shortcut brings its input to.
 * @param {NetworkNode} node
 * @param {NetworkNode} input
 */
export function projectionText(node, input) {
  const channels = count("count.channels", node.shape[0]);
  return shrinks(node, input) ? t("describe.halved", { channels }) : channels;
}

/**
 * How much of the spectrogram one cell depends on; null where it is not known.
 * @param {NetworkNode} node
 * @param {MapAxes} axes
 */
export function receptiveFieldText({ field }, { mels, frames, seconds }) {
  if (!field) return null;
  const size = Math.min(field.size, field.patch ?? field.size);
  const time = size >= frames ? t("describe.whole_window") : formatDuration((size / frames) * seconds);
  return size >= mels ? t("describe.field_all", { time, mels }) : t("describe.field", { time, size, mels });
}

/**
 * Name of a node for people: layer1.block2 -> block 2 of layer1.
 * @param {NetworkNode} node
 */
export function displayName({ id, title }) {
  const [stage, block] = id.split(".");
  return block ? t("describe.block", { block: block.replace(/\D+/, ""), stage }) : className(title);
}
