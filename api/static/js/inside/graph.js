// The network as the page draws it: what there is to see, in what groups, and what feeds what.

import { className } from "../format.js";
import { Matrix } from "../matrix.js";

/** Begins the title of the class activation picture; the class follows. */
export const SPOKE = "What spoke for ";

/**
 * @typedef {object} Node
 * @property {string} id          a layer's name, or input, pool, cam, answer
 * @property {string} kind        stem, residual, plain, stage (as the server says), input, pool, cam or answer
 * @property {string} title
 * @property {number[]} shape     channels, rows, columns; empty where there is no map
 * @property {string[]} inputs    ids of what feeds it
 * @property {?string} shortcut   of a residual block: identity, or projection where the input's shape is another
 * @property {?object} field      what one cell can see of the spectrogram: {start, stride, size}
 * @property {?Matrix} matrix     what is shown of it: the mean over its channels
 */

/**
 * The network of a model card with the maps of a result.
 * @returns {{nodes: Map<string, Node>, groups: Node[][], axes: object, card: object, pooled: string[]}}
 */
export function network(card, result) {
  const nodes = new Map();
  const add = (node) =>
    nodes.set(node.id, { inputs: [], shape: [], shortcut: null, field: null, matrix: null, ...node });
  const axes = axesOf(card, result);
  const shape = [1, axes.mels, axes.frames];
  add({
    id: "input",
    kind: "input",
    title: "Spectrogram",
    shape,
    field: { start: 0, stride: 1, size: 1 },
    matrix: axes.input,
  });
  const same = new Map(); // a stage that holds blocks is the same activation as the last of them
  for (const layer of card.layers) {
    if (layer.kind === "stage" && layer.inputs[0]?.startsWith(`${layer.name}.`)) {
      same.set(layer.name, layer.inputs[0]);
      continue;
    }
    const inputs = layer.inputs.length ? layer.inputs.map((name) => same.get(name) ?? name) : ["input"];
    const { name: id, kind, shape, receptive_field: field } = layer;
    const alike = String(nodes.get(inputs[0])?.shape) === String(shape);
    const shortcut = kind !== "residual" ? null : alike ? "identity" : "projection";
    add({ id, kind, title: id, shape, inputs, shortcut, field, matrix: result.maps.get(id) ?? null });
  }
  const last = [...nodes.keys()].at(-1);
  const groups = grouped([...nodes.values()]);
  const stages = groups.map((group) => group.at(-1).id).filter((id) => id !== "input" && id !== "stem");
  const pooled = card.architecture.feature_pyramid ? stages : [last];
  if (result.cam) {
    const { cam: matrix } = result;
    const title = `${SPOKE}${camClass(result)}`;
    add({ id: "cam", kind: "cam", title, shape: [1, matrix.rows, matrix.columns], inputs: [last], matrix });
  }
  add({ id: "pool", kind: "pool", title: "Pooling", inputs: pooled });
  groups.push(["cam", "pool"].filter((id) => nodes.has(id)).map((id) => nodes.get(id)));
  add({ id: "answer", kind: "answer", title: "Answer", inputs: ["pool"] });
  groups.push([nodes.get("answer")]);
  return { nodes, groups, axes, card, pooled };
}

/** The class that the activation picture is of: the winner of the window that was looked into. */
export function camClass({ windows, window, predictions }) {
  return className((windows?.[window]?.predictions[0] ?? predictions[0]).class);
}

/** Name of a group: that of the stage, or of its only layer. */
export const groupName = (group) => group[0].id.split(".")[0];

function grouped(nodes) {
  const groups = [];
  for (const node of nodes) {
    if (groups.length && node.id.includes(".") && groupName(groups.at(-1)) === groupName([node]))
      groups.at(-1).push(node);
    else groups.push([node]);
  }
  return groups;
}

/** Ids of a node and of everything that feeds it. */
export function chain(nodes, id, found = new Set()) {
  if (found.has(id) || !nodes.has(id)) return found;
  found.add(id);
  for (const input of nodes.get(id).inputs) chain(nodes, input, found);
  return found;
}

/** Time and frequency of the window that the maps are of, and the spectrogram of it. */
function axesOf(card, result) {
  const { hop, n_mels: mels, f_min: low, f_max: high } = card.frontend;
  const seconds = card.window_seconds;
  const frames = Math.floor(Math.round(seconds * card.sample_rate) / hop) + 1;
  const start = result.windows?.[result.window]?.start ?? 0;
  const [bottom, top] = [mel(low), mel(high)];
  return {
    mels,
    frames,
    start,
    seconds,
    low,
    high,
    input: cut(result.spectrogram, Math.round((start * card.sample_rate) / hop), frames),
    /** Share of the height -> Hz, and back. */
    hertz: (share) => 700 * (10 ** ((bottom + share * (top - bottom)) / 2595) - 1),
    share: (hertz) => (mel(hertz) - bottom) / (top - bottom),
  };
}

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);

/** The columns of one window; of a longer sound's last they may be fewer, and the rest is silence. */
function cut(matrix, from, count) {
  if (!matrix || matrix.columns === count) return matrix;
  const values = new Float32Array(matrix.rows * count).fill(matrix.statistics.min);
  for (let row = 0; row < matrix.rows; row += 1) {
    const at = row * matrix.columns;
    values.set(matrix.values.subarray(at + from, at + Math.min(from + count, matrix.columns)), row * count);
  }
  return new Matrix(matrix.rows, count, values);
}

/** What a cell of a map can hear: seconds of the sound and shares of the frequency axis; null where it is not known. */
export function heard({ field }, axes, matrix, row, column) {
  if (!field) return null;
  const seen = (cell, whole) => {
    const first = field.start + cell * field.stride;
    return [Math.max(first, 0) / whole, Math.min(first + field.size, whole) / whole];
  };
  const [low, high] = seen(row, axes.mels);
  const [left, right] = seen(column, axes.frames);
  return { start: axes.start + left * axes.seconds, end: axes.start + right * axes.seconds, low, high };
}

/** The mean of matrices of one size. */
export function mean(matrices) {
  const [{ rows, columns }] = matrices;
  const values = new Float32Array(rows * columns);
  for (const { values: one } of matrices)
    for (let i = 0; i < values.length; i += 1) values[i] += one[i] / matrices.length;
  return new Matrix(rows, columns, values);
}

/** {min, max} over matrices. */
export function bounds(matrices) {
  const all = matrices.map(({ statistics }) => statistics);
  return { min: Math.min(...all.map(({ min }) => min)), max: Math.max(...all.map(({ max }) => max)) };
}
