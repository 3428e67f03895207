// What each node of a network computes, in a sentence that is true of the network at hand.

import { className, formatDuration, formatHertz } from "../format.js";
import { inputOf, nodeOf } from "./graph.js";

/** @import { ModelCard } from "../types.js" */
/** @import { MapAxes, Network, NetworkNode } from "./graph.js" */

/** @type {(number: number, one: string, many?: string) => string} */
const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/**
 * 32 channels of 16 × 32 cells.
 * @param {number[]} shape
 */
export const shapeText = ([channels, rows, columns]) => `${count(channels, "channel")} of ${rows} × ${columns} cells`;

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
      return (
        `The input of the network: the level in each of ${axes.mels} frequency bands, ` +
        `${formatHertz(axes.low)} to ${formatHertz(axes.high)}, every ${step}.`
      );
    }
    case "stem":
      if (inPatches(card)) {
        return (
          `The spectrogram is cut into patches of ${formatDuration(patchSeconds(network))}, each of which passes through the ` +
          `network on its own. A 3 × 3 convolution with ${node.shape[0]} filters detects simple patterns such as edges and ` +
          `onsets, at half the resolution.`
        );
      }
      return (
        `A 7 × 7 convolution with ${node.shape[0]} filters detects simple patterns such as edges and onsets; max pooling ` +
        `then keeps the largest of neighbouring cells, at a quarter of the resolution.`
      );
    case "residual": {
      const shortcut =
        node.shortcut === "identity"
          ? "passes the input on unchanged"
          : `projects the input to ${projectionText(node, inputOf(network, node))}`;
      return `Two 3 × 3 convolutions${gateText(card)} compute what is added to the input; the shortcut ${shortcut}.`;
    }
    case "plain": {
      const input = inputOf(network, node);
      if (inPatches(card)) {
        return (
          `A 3 × 3 convolution of each of ${count(input.shape[0], "channel")} on its own` +
          `${shrinks(node, input) ? ", at half the resolution" : ""}, then a 1 × 1 convolution that mixes them into ` +
          `${node.shape[0].toLocaleString("en")}; after each, negative values are set to zero. There is no shortcut.`
        );
      }
      const pooling = shrinks(node, input) ? "2 × 2 max pooling, then one" : "One";
      return (
        `${pooling} 3 × 3 convolution from ${count(input.shape[0], "channel")} to ${node.shape[0]}, with negative values ` +
        `set to zero. There is no shortcut.`
      );
    }
    case "stage": {
      const resolution = shrinks(node, inputOf(network, node)) ? "a lower resolution than" : "the same resolution as";
      const backbone = card.architecture.backbone ?? "the network";
      return `A stage of ${backbone}: ${shapeText(node.shape)}, at ${resolution} its input.`;
    }
    case "cam":
      return (
        `Which cells of ${node.inputs[0].split(".")[0]} raised the score of ${camClass} (Grad-CAM): ` +
        `bright cells raised it, dark cells did not.`
      );
    case "pool": {
      if (pooled.length > 1) {
        const left = count((card.architecture.pyramid_width ?? 0) * pooled.length, "number");
        return (
          `A feature pyramid adds the coarse stages to the fine ones; the mean of each of its channels is taken: ${left} ` +
          `remain.`
        );
      }
      const left = count(nodeOf(network, pooled[0]).shape[0], "number");
      const { patch_frames: size, patch_hop: hop } = card.architecture;
      const overlapping =
        size && hop && hop < size ? ", and over patches that overlap, of which the maps show every other one" : "";
      return `The mean of each channel over time and frequency${overlapping}: ${left} remain.`;
    }
    default: {
      const hidden = card.architecture.head?.length ?? 0;
      const layers = hidden ? `${hidden + 1} linear layers` : "One linear layer";
      const classes = count(card.classes.length, "class", "classes");
      return card.multi_label
        ? `${layers} and a sigmoid compute a confidence for each of ${classes} on its own: several can be right at once.`
        : `${layers} and a softmax compute a confidence for each of ${classes}.`;
    }
  }
}

/** Whether a network takes the spectrogram in patches, as MobileNet-v1 does. @param {ModelCard} card */
const inPatches = ({ architecture }) => architecture.type === "mobilenet-v1";

/** Seconds of a patch. @param {Network} network */
const patchSeconds = ({ card, axes }) => ((card.architecture.patch_frames ?? axes.frames) * card.frontend.hop) / card.sample_rate;

/** @param {ModelCard} card */
const gateText = ({ architecture }) =>
  architecture.squeeze_excitation
    ? ", and a gate that weighs each channel by its mean over the clip (squeeze-and-excitation),"
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
  return `${count(node.shape[0], "channel")}${shrinks(node, input) ? " and half the resolution" : ""}`;
}

/**
 * How much of the spectrogram one cell depends on; null where it is not known.
 * @param {NetworkNode} node
 * @param {MapAxes} axes
 */
export function receptiveFieldText({ field }, { mels, frames, seconds }) {
  if (!field) return null;
  const size = Math.min(field.size, field.patch ?? field.size);
  const time = size >= frames ? "the whole window" : formatDuration((size / frames) * seconds);
  return `${time}, ${size >= mels ? "all" : size} of ${mels} bands`;
}

/**
 * Name of a node for people: layer1.block2 -> block 2 of layer1.
 * @param {NetworkNode} node
 */
export function displayName({ id, title }) {
  const [stage, block] = id.split(".");
  return block ? `${block.replace(/(\d+)/, " $1")} of ${stage}` : className(title);
}
