// The network as a graph: its nodes, their groups, and which node feeds which.

import { className } from "../view/format.js";
import { Matrix } from "../signal/matrix.js";
import { melScale } from "../signal/mel.js";
import { bandAxis } from "../sound/frequency-axis.js";
import { frontendOf } from "../sound/front-ends.js";
import { t } from "../words.js";

/** @import { Architecture, Frontend, ModelCard, ReceptiveField, Result } from "../server/types.js" */
/** @import { Region } from "../edit/region.js" */
/** @import { FrequencyAxis } from "../sound/frequency-axis.js" */

/**
 * @typedef {"stem" | "residual" | "plain" | "stage" | "input" | "cam" | "pool" | "prediction"} NodeKind
 *
 * @typedef {object} Place         where a layer is
 * @property {string} part        name of its network, of several side by side; empty where there is one
 * @property {Architecture} architecture  of its network
 * @property {string} stage
 * @property {string} block       empty where it is the only layer of its stage, or the stage itself
 *
 * @typedef {object} OwnNode
 * @property {string} id          a layer's name, or input, cam, pool, prediction
 * @property {NodeKind} kind      the first four are kinds of layers; an input is the spectrogram, or a network's own
 * @property {string} title
 * @property {number[]} shape     channels, rows, columns; empty where there is no map
 * @property {string[]} inputs    ids of the nodes that feed it
 * @property {"identity" | "projection" | null} shortcut  of a residual block; a projection where the input's shape differs
 * @property {ReceptiveField | null} field
 * @property {Matrix | null} matrix  its map: the mean over its channels
 * @property {MapAxes} axes       of its map
 *
 * @typedef {OwnNode & Place} NetworkNode
 *
 * @typedef {object} Part         one of several networks side by side, or the only one
 * @property {string} name        empty where it is the only one
 * @property {Architecture} architecture
 * @property {string[]} pooled    ids of the nodes that are pooled
 *
 * @typedef {object} MapAxes      time and frequency of the window that the maps belong to
 * @property {number} mels        rows of the spectrogram
 * @property {number} frames      columns of the spectrogram
 * @property {number} start       seconds
 * @property {number} seconds
 * @property {number} low         Hz
 * @property {number} high        Hz
 * @property {FrequencyAxis} bands  the edges of the rows of the spectrogram
 * @property {(share: number) => number} frequencyAt  share of the height -> Hz
 * @property {(frequency: number) => number} shareOf  Hz -> share of the height
 *
 * @typedef {object} Network
 * @property {Map<string, NetworkNode>} nodes  in the order of computation
 * @property {NetworkNode[][]} groups  stages, each with its blocks
 * @property {MapAxes} axes       of the spectrogram that is shown
 * @property {ModelCard} card
 * @property {Part[]} parts       the networks that begin at the spectrogram and whose pooled nodes are classified together
 * @property {string} camClass    the class that the class activation belongs to
 */

/** Whether a layer is a spectrogram: the one that is shown, or the own one of one of several networks. @param {string} name */
export const isSpectrogram = (name) => name === "input" || name.endsWith(".spectrogram");

/** In place of a layer in the name of a cell: the class before the softmax. */
export const LOGITS = "logits";

/**
 * The network, the stage and the block that the name of a layer stands for: `layer1.block2`, or `cnn9.layer1.block2` in a
 * model of several networks side by side.
 * @param {Architecture} architecture  of the model
 * @param {string} id
 * @returns {Place}
 */
export function placeOf(architecture, id) {
  const [first, ...rest] = id.split(".");
  const own = rest.length ? architecture.parts?.[first] : undefined;
  const [stage, block = ""] = own ? rest : [first, ...rest];
  return { part: own ? first : "", architecture: own ?? architecture, stage, block };
}

/**
 * The graph of a model with the maps of a result.
 * @param {ModelCard} card
 * @param {Result} result
 * @returns {Network}
 */
export function buildNetwork(card, result) {
  /** @type {Map<string, NetworkNode>} */
  const nodes = new Map();
  /** @param {Partial<OwnNode> & Pick<OwnNode, "id" | "kind" | "title">} node */
  const add = (node) => {
    const place = placeOf(card.architecture, node.id);
    const of = { axes: ownAxes.get(place.part) ?? axes, ...place };
    nodes.set(node.id, { inputs: [], shape: [], shortcut: null, field: null, matrix: null, ...of, ...node });
  };
  const axes = axesOf(card, card.frontend, result);
  /** Of networks that have a spectrogram of their own, by the network's name. @type {Map<string, MapAxes>} */
  const ownAxes = new Map();
  for (const { name, shape } of card.layers.filter(({ kind }) => kind === "input")) {
    const { part } = placeOf(card.architecture, name);
    const frontend = frontendOf(card, part);
    const [frames, seconds] = [shape[2], (shape[2] * frontend.hop) / card.sample_rate];
    ownAxes.set(part, { ...axesOf(card, frontend, result), frames, seconds: Math.min(seconds, card.window_seconds) });
  }
  add({
    id: "input",
    kind: "input",
    title: t("network.spectrogram"),
    shape: [1, axes.mels, axes.frames],
    field: { start: 0, stride: 1, size: 1 },
    matrix: windowSpectrogram(card, result, axes),
  });
  /** Stage -> its last block, which is the same activation. @type {Map<string, string>} */
  const aliases = new Map();
  for (const layer of card.layers) {
    if (layer.kind === "stage" && layer.inputs[0]?.startsWith(`${layer.name}.`)) {
      aliases.set(layer.name, layer.inputs[0]);
      continue;
    }
    const { name: id, kind, shape } = layer;
    const sources = layer.inputs.length || kind === "input" ? layer.inputs : ["input"];
    const inputs = sources.map((name) => aliases.get(name) ?? name);
    const sameShape = String(nodes.get(inputs[0])?.shape) === String(shape);
    const shortcut = kind !== "residual" ? null : sameShape ? "identity" : "projection";
    const matrix = result.maps.get(id) ?? null;
    const title = kind === "input" ? t("network.spectrogram") : id;
    add({ id, kind, title, shape, inputs, shortcut, field: layer.receptive_field ?? null, matrix });
  }
  const groups = groupNodes([...nodes.values()]);
  const parts = Object.entries(card.architecture.parts ?? { "": card.architecture }).map(([name, architecture]) => {
    const ends = groups.filter(([{ part }]) => part === name).map((group) => group[group.length - 1]);
    const stages = ends.filter(({ kind }) => kind !== "input" && kind !== "stem");
    return { name, architecture, pooled: (architecture.feature_pyramid ? stages : ends.slice(-1)).map(({ id }) => id) };
  });
  const pooled = parts.flatMap((part) => part.pooled);
  const camClass = className(result.camClass);
  if (result.cam) {
    const { cam: matrix } = result;
    const title = t("network.cam", { class: camClass });
    const inputs = pooled.slice(-1);
    const { axes: of = axes } = nodes.get(inputs[0]) ?? {};
    add({ id: "cam", kind: "cam", title, shape: [1, matrix.rows, matrix.columns], inputs, matrix, axes: of });
  }
  add({ id: "pool", kind: "pool", title: t("network.pooling"), inputs: pooled });
  add({ id: "prediction", kind: "prediction", title: t("prediction.title"), inputs: ["pool"] });
  /** @param {NodeKind[]} kinds */
  const ofKind = (...kinds) => [...nodes.values()].filter(({ kind }) => kinds.includes(kind));
  groups.push(ofKind("cam", "pool"), ofKind("prediction"));
  return { nodes, groups, axes, card, parts, camClass };
}

/**
 * The node with that id.
 * @param {Network} network
 * @param {string} id
 */
export function nodeOf({ nodes }, id) {
  const node = nodes.get(id);
  if (!node) throw new Error(`The network has no node ${id}.`);
  return node;
}

/**
 * The first node that feeds a node.
 * @param {Network} network
 * @param {NetworkNode} node
 */
export const inputOf = (network, node) => nodeOf(network, node.inputs[0]);

/**
 * Whether a node is a layer of the network.
 * @param {NetworkNode} node
 */
export const isLayer = ({ kind }) => ["stem", "residual", "plain", "stage"].includes(kind);

/**
 * Name of a group: that of its stage, or of its only layer.
 * @param {NetworkNode[]} group
 */
export const groupName = ([{ part, stage }]) => (part ? `${part}.${stage}` : stage);

/** @param {NetworkNode[]} nodes */
function groupNodes(nodes) {
  /** @type {NetworkNode[][]} */
  const groups = [];
  for (const node of nodes) {
    const last = groups.at(-1);
    if (last && node.block && groupName(last) === groupName([node])) last.push(node);
    else groups.push([node]);
  }
  return groups;
}

/**
 * Ids of a node and of every node that feeds it, directly or not.
 * @param {Map<string, NetworkNode>} nodes
 * @param {string} id
 * @param {Set<string>} [found]
 */
export function ancestors(nodes, id, found = new Set()) {
  const node = nodes.get(id);
  if (!node || found.has(id)) return found;
  found.add(id);
  for (const input of node.inputs) ancestors(nodes, input, found);
  return found;
}

/**
 * @param {ModelCard} card
 * @param {Frontend} frontend
 * @param {Result} result
 * @returns {MapAxes}
 */
function axesOf(card, frontend, result) {
  const { hop, n_mels: mels, f_min: low, f_max: high, center = true, win_length: window, n_fft, preemphasis } = frontend;
  const seconds = card.window_seconds;
  const samples = Math.round(seconds * card.sample_rate) - (preemphasis ? 1 : 0);
  const scale = melScale(frontend);
  const [bottom, top] = [scale.from(low), scale.from(high)];
  return {
    mels,
    frames: Math.floor((center ? samples : samples - (window ?? n_fft)) / hop) + 1,
    start: result.windows?.[result.window]?.start ?? 0,
    seconds,
    low,
    high,
    bands: bandAxis(frontend),
    frequencyAt: (share) => scale.to(bottom + share * (top - bottom)),
    shareOf: (frequency) => (scale.from(frequency) - bottom) / (top - bottom),
  };
}

/**
 * The spectrogram of the window that the maps belong to. The last window of a longer sound may have fewer columns; the rest
 * is silence.
 * @param {ModelCard} card
 * @param {Result} result
 * @param {MapAxes} axes
 */
function windowSpectrogram(card, { spectrogram: matrix }, { start, frames }) {
  if (!matrix || matrix.columns === frames) return matrix;
  const first = Math.round((start * card.sample_rate) / card.frontend.hop);
  const values = new Float32Array(matrix.rows * frames).fill(card.frontend.floor_db ?? matrix.statistics.min);
  for (let row = 0; row < matrix.rows; row += 1) {
    const at = row * matrix.columns;
    values.set(matrix.values.subarray(at + first, at + Math.min(first + frames, matrix.columns)), row * frames);
  }
  return new Matrix(matrix.rows, frames, values);
}

/**
 * The part of the sound that a cell of a map depends on, clipped to the sound; null where it is not known.
 * @param {NetworkNode} node
 * @param {MapAxes} axes
 * @param {number} row
 * @param {number} column
 * @returns {Region | null}
 */
export function receptiveRegion({ field }, axes, row, column) {
  if (!field) return null;
  /** @type {(cell: number, length: number, step: number, patch?: number | null) => [number, number]} */
  const shares = (cell, length, step, patch) => {
    const first = (field.start + cell * field.stride) * step;
    const begin = patch ? Math.floor((cell * field.stride) / patch) * patch : 0; // of the patch that the cell lies in
    const end = patch ? Math.min(begin + patch, length) : length;
    return [Math.max(first, begin) / length, Math.min(first + field.size * step, end) / length];
  };
  const [low, high] = shares(row, axes.mels, 1);
  const [left, right] = shares(column, axes.frames, field.pooled_frames ?? 1, field.patch);
  return { start: axes.start + left * axes.seconds, end: axes.start + right * axes.seconds, low: axes.bands.frequencyAt(low), high: axes.bands.frequencyAt(high) };
}
