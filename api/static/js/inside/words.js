// What every part of a network is, in a sentence. Short, and true of the network at hand.

import { className, hertz, span } from "../format.js";
import { SPOKE } from "./graph.js";

const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** 32 channels of 16 × 32 cells. */
export const size = ([channels, rows, columns]) => `${count(channels, "channel")} of ${rows} × ${columns} cells`;

/** What a node is. */
export function sentence(node, { nodes, card, axes, pooled }) {
  const input = nodes.get(node.inputs[0]);
  switch (node.kind) {
    case "input": {
      const step = span(card.frontend.hop / card.sample_rate);
      return (
        `The sound as the network gets it: how loud each of ${axes.mels} bands of pitch, ` +
        `${hertz(axes.low)} to ${hertz(axes.high)}, is every ${step}.`
      );
    }
    case "stem":
      return (
        `A 7 × 7 convolution looks for ${node.shape[0]} simple patterns such as edges and onsets; ` +
        `the strongest of neighbouring cells are kept, at a quarter of the resolution.`
      );
    case "residual":
      return (
        `Two 3 × 3 convolutions${gate(card)} work out what to add to their input, which ` +
        `${node.shortcut === "identity" ? "takes the shortcut unchanged" : `the shortcut brings to ${projection(node, input)}`}.`
      );
    case "plain":
      return (
        `${shrinks(node, input) ? "The strongest of each 2 × 2 cells is kept, then one" : "One"} 3 × 3 convolution ` +
        `combines ${count(input.shape[0], "channel")} into ${node.shape[0]} and clips them at zero. ` +
        `There is no shortcut.`
      );
    case "stage":
      return `${backbone(card)}${size(node.shape)}, ${shrinks(node, input) ? "coarser than" : "as fine as"} what feeds it.`;
    case "cam":
      return (
        `The cells of ${node.inputs[0].split(".")[0]} that raised the score of ${node.title.slice(SPOKE.length)} (Grad-CAM): ` +
        `bright is where the sound spoke for it, dark is where it did not.`
      );
    case "pool":
      return pooled.length > 1
        ? `A feature pyramid passes the coarse stages down to the fine ones, and the mean of each of its channels is taken: ` +
            `${count(card.architecture.pyramid_width * pooled.length, "number")} are left.`
        : `The mean of each channel over time and pitch: ${count(nodes.get(pooled[0]).shape[0], "number")} are left.`;
    default:
      return `${head(card)} and a softmax turn them into a confidence for each of ${count(card.classes.length, "class", "classes")}.`;
  }
}

const gate = ({ architecture }) =>
  architecture.squeeze_excitation ? ", and a gate that weighs each channel by the whole clip," : "";
const shrinks = ({ shape }, input) => input.shape[1] > shape[1];
const backbone = ({ architecture }) => `A stage of ${architecture.backbone ?? "the network"}: `;

function head({ architecture: { head: hidden = [] } }) {
  return hidden.length ? `${hidden.length + 1} linear layers` : "One linear layer";
}

/** What a projection shortcut makes of its input. */
export function projection(node, input) {
  return `${count(node.shape[0], "channel")}${shrinks(node, input) ? " and half the resolution" : ""}`;
}

/** What one cell can hear, in words; null where it is not known. */
export function hearing({ field }, { mels, frames, seconds }) {
  if (!field) return null;
  const { size } = field;
  const time = size >= frames ? "the whole window" : span((size / frames) * seconds);
  return `${time}, ${size >= mels ? "all" : size} of ${mels} bands`;
}

/** Name of a layer for people: layer1.block2 -> block 2 of layer1. */
export function spoken({ id, title }) {
  const [stage, block] = id.split(".");
  return block ? `${block.replace(/(\d+)/, " $1")} of ${stage}` : className(title);
}
