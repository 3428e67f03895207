// What each node of a network computes, in a sentence that is true of the network at hand.

import { className, formatDuration, formatHertz } from "../view/format.js";
import { frontendOf } from "../sound/front-ends.js";
import { groupName, inputOf, isLayer, nodeOf } from "./graph.js";
import { language, t } from "../words.js";

/** @import { Architecture } from "../server/types.js" */
/** @import { MapAxes, Network, NetworkNode, Part } from "./graph.js" */

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
  const { card, parts, camClass } = network;
  const { architecture, axes } = node;
  switch (node.kind) {
    case "input": {
      const step = formatDuration(frontendOf(card, node.part).hop / card.sample_rate);
      return t("describe.input", { mels: axes.mels, low: formatHertz(axes.low), high: formatHertz(axes.high), step });
    }
    case "stem":
      if (inPatches(architecture)) {
        const frames = architecture.patch_frames ?? axes.frames;
        const seconds = formatDuration((frames * frontendOf(card, node.part).hop) / card.sample_rate);
        return t("describe.stem_patches", { seconds, filters: node.shape[0] });
      }
      return t(isInverted(architecture) ? "describe.stem_small" : "describe.stem", { filters: node.shape[0] });
    case "residual": {
      const shortcut =
        node.shortcut === "identity"
          ? t("describe.identity")
          : t("describe.projection", { shape: projectionText(node, inputOf(network, node)) });
      return t("describe.residual", { gates: architecture.squeeze_excitation ? t("describe.gates") : "", shortcut });
    }
    case "plain": {
      const input = inputOf(network, node);
      if (inPatches(architecture)) {
        return t("describe.separable", {
          channels: count("count.channels", input.shape[0]),
          half: shrinks(node, input) ? t("describe.half") : "",
          outputs: node.shape[0].toLocaleString(language),
        });
      }
      const values = { channels: count("count.channels", input.shape[0]), outputs: node.shape[0] };
      if (isInverted(architecture)) {
        // A block has at most twice the channels of its input; only the last convolution has more.
        if (node.shape[0] >= 4 * input.shape[0]) return t("describe.mixed", values);
        return t("describe.inverted", { ...values, half: shrinks(node, input) ? t("describe.half") : "" });
      }
      const fromPowers = architecture.type === "cnn9" && input.kind === "input";
      const powers = fromPowers ? `${t("describe.powers", { count: architecture.pooled_frames ?? 1 })} ` : "";
      return powers + t(shrinks(node, input) ? poolingOf(architecture).inside : "describe.plain", values);
    }
    case "stage": {
      const values = { backbone: architecture.backbone ?? t("describe.network"), shape: shapeText(node.shape) };
      return t(shrinks(node, inputOf(network, node)) ? "describe.stage_lower" : "describe.stage", values);
    }
    case "cam":
      return t("describe.cam", { layer: groupName([inputOf(network, node)]), class: camClass });
    case "pool": {
      const texts = parts.map((part) => inPart(part.name, describePooling(part, network)));
      return parts.length > 1 ? `${texts.join(" ")} ${t("describe.together")}` : texts[0];
    }
    default: {
      const hidden = card.architecture.head?.length ?? 0;
      const layers = t("describe.linear", { count: hidden + 1 });
      const classes = count("count.classes", card.classes.length);
      return t(card.multi_label ? "describe.sigmoid" : "describe.softmax", { layers, classes });
    }
  }
}

/** Whether a network takes the spectrogram in patches, as MobileNet-v1 does. @param {Architecture} architecture */
const inPatches = ({ type }) => type === "mobilenet-v1";

/** Whether a network has inverted residual blocks. @param {Architecture} architecture */
const isInverted = ({ type }) => type === "mobilenet-v2" || type === "mobilenet-v3";

/**
 * How a network pools, as keys of texts: at its end in a sentence and in a few words, and inside, where a block does so.
 * @param {Architecture} architecture
 * @returns {Record<"end" | "short" | "inside", import("../words.js").Key>}
 */
function poolingOf({ type, feature_pyramid: hasPyramid }) {
  if (hasPyramid) return { end: "describe.pyramid", short: "overview.pyramid", inside: "describe.pooled" };
  switch (type) {
    case "cnn9":
      return { end: "describe.pool_maximum", short: "overview.maximum", inside: "describe.maxima" };
    case "cnn14":
    case "mobilenet-v2":
      return { end: "describe.pool_maxima", short: "overview.maxima", inside: "describe.averaged" };
    case "mobilenet-v3":
      return { end: "describe.pool_linear", short: "overview.means", inside: "describe.pooled" };
    default:
      return { end: "describe.pool", short: "overview.means", inside: "describe.pooled" };
  }
}

/** How a network pools at its end, in a few words. @param {Part} part */
export const poolingText = ({ name, architecture }) => inPart(name, t(poolingOf(architecture).short));

/**
 * @param {Part} part
 * @param {Network} network
 */
function describePooling({ architecture, pooled }, network) {
  const { feature_pyramid: hasPyramid, pyramid_width: width = 0, patch_frames: size, patch_hop: hop } = architecture;
  const channels = nodeOf(network, pooled[0]).shape[0];
  return t(poolingOf(architecture).end, {
    channels: count("count.channels", channels),
    left: count("count.numbers", hasPyramid ? width * pooled.length : channels),
    overlapping: size && hop && hop < size ? t("describe.overlapping") : "",
  });
}

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
  const { size, patch, pooled_frames: step = 1 } = field;
  const columns = Math.min(size * step, patch ?? frames);
  const time = columns >= frames ? t("describe.whole_window") : formatDuration((columns / frames) * seconds);
  return size >= mels ? t("describe.field_all", { time, mels }) : t("describe.field", { time, size, mels });
}

/**
 * Name of a node for people: layer1.block2 -> block 2 of layer1.
 * @param {NetworkNode} node
 */
export function displayName(node) {
  const { part, stage, block, title } = node;
  const name = isLayer(node) ? stage : className(title);
  return inPart(part, block ? t("describe.block", { block: block.replace(/\D+/, ""), stage }) : name);
}

/**
 * A text about one of several networks, with its name before it.
 * @param {string} part  empty where there is one network
 * @param {string} text
 */
export const inPart = (part, text) => (part ? `${part}: ${text}` : text);
