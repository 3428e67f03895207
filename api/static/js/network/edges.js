// The edges of the drawn network, between the nodes wherever the layout has put them.

import { s } from "../view/dom.js";

/** @import { NetworkNode } from "./graph.js" */

/**
 * @typedef {object} Edge
 * @property {string} from  id of a node
 * @property {string} to
 * @property {"path" | "identity" | "projection" | "derived"} kind  derived: computed from it, but not a part of the network
 *
 * @typedef {{left: number, top: number, right: number, bottom: number, x: number, y: number}} Box  px; x, y: its centre
 */

const BULGE = 17; // px between a node and the arc of a shortcut around it

/**
 * @param {Map<string, NetworkNode>} nodes
 * @returns {Edge[]}
 */
export function edgesOf(nodes) {
  /** @type {Edge[]} */
  const edges = [];
  for (const { id, kind, inputs, shortcut } of nodes.values()) {
    for (const from of inputs) {
      edges.push({ from, to: id, kind: kind === "cam" ? "derived" : "path" });
      if (shortcut) edges.push({ from, to: id, kind: shortcut });
    }
  }
  if (nodes.has("cam")) edges.push({ from: "cam", to: "prediction", kind: "derived" });
  return edges;
}

/**
 * Draw the edges into `svg`, which covers `root`.
 * @param {SVGElement} svg
 * @param {HTMLElement} root
 * @param {Edge[]} edges
 * @param {(id: string) => Element} elementOf  the element of a node
 * @returns {Map<Edge, SVGPathElement>}
 */
export function drawEdges(svg, root, edges, elementOf) {
  const rows = root.hasAttribute("data-rows");
  const origin = root.getBoundingClientRect();
  /** @type {Map<string, Box>} */
  const boxes = new Map();
  /** @param {string} id */
  const box = (id) => {
    const found = boxes.get(id) ?? relativeBox(elementOf(id).getBoundingClientRect(), origin);
    boxes.set(id, found);
    return found;
  };
  const paths = new Map(
    edges.map((edge) => {
      const d = course(box(edge.from), box(edge.to), edge, origin, rows);
      return [edge, s("path", { class: `edge ${edge.kind}`, d })];
    }),
  );
  svg.replaceChildren(...paths.values());
  return paths;
}

/**
 * @param {DOMRect} rect
 * @param {DOMRect} origin
 * @returns {Box}
 */
function relativeBox(rect, origin) {
  const [left, top] = [rect.left - origin.left, rect.top - origin.top];
  return {
    left,
    top,
    right: left + rect.width,
    bottom: top + rect.height,
    x: left + rect.width / 2,
    y: top + rect.height / 2,
  };
}

/**
 * A path around the nodes in between: beside the rows, or below the columns.
 * @param {Box} from
 * @param {Box} to
 * @param {DOMRect} page
 * @param {boolean} rows
 */
function around(from, to, { width, height }, rows) {
  if (rows) {
    const [side, turn] = [width - 2, 10];
    const out = `M${from.right} ${from.y}H${side - turn}Q${side} ${from.y} ${side} ${from.y + turn}`;
    return `${out}V${to.y - turn}Q${side} ${to.y} ${side - turn} ${to.y}H${to.right}`;
  }
  const [low, turn] = [height - 2, 14];
  const down = `M${from.x} ${from.bottom}V${low - turn}Q${from.x} ${low} ${from.x + turn} ${low}`;
  return `${down}H${to.x - turn}Q${to.x} ${low} ${to.x} ${low - turn}V${to.bottom}`;
}

/**
 * The `d` attribute of an edge.
 * @param {Box} from
 * @param {Box} to
 * @param {Edge} edge
 * @param {DOMRect} page
 * @param {boolean} rows  the groups are rows instead of columns
 */
function course(from, to, { kind, from: source }, page, rows) {
  const isShortcut = kind === "identity" || kind === "projection";
  const beside = from.right <= to.left + 1;
  const level = Math.abs(from.y - to.y) < (to.bottom - to.top) / 2;
  if (beside && isShortcut && level) {
    const top = Math.min(from.top, to.top) - BULGE;
    return `M${from.x} ${from.top}C${from.x} ${top} ${to.x} ${top} ${to.x} ${to.top}`;
  }
  const far = rows
    ? to.top - from.bottom > 2 * (from.bottom - from.top)
    : to.left - from.right > from.right - from.left;
  if (far && rows && source === "input") {
    // Between the names and the maps: beside the rows is the way of another network to the pooling.
    const [side, turn] = [to.left - 5, 5];
    return `M${from.left} ${from.y}Q${side} ${from.y} ${side} ${from.y + turn}V${to.y - turn}Q${side} ${to.y} ${to.left} ${to.y}`;
  }
  if (far && kind === "path") return around(from, to, page, rows);
  if (beside && rows && !level) {
    // Past the node beside it, and down: a curve would run through that node.
    const turn = Math.min(10, (to.top - from.y) / 2);
    return `M${from.right} ${from.y}H${to.x - turn}Q${to.x} ${from.y} ${to.x} ${from.y + turn}V${to.top}`;
  }
  if (beside) {
    // A shortcut runs beside the path, a little above it.
    const off = isShortcut ? Math.min(10, (to.bottom - to.top) / 4) : 0;
    const bend = (to.left - from.right) * 0.55;
    const [start, end] = [from.y - off, to.y - off];
    return `M${from.right} ${start}C${from.right + bend} ${start} ${to.left - bend} ${end} ${to.left} ${end}`;
  }
  if (isShortcut && Math.abs(from.x - to.x) < 8) {
    const out = Math.max(from.right, to.right) + BULGE;
    return `M${from.right} ${from.y}C${out} ${from.y} ${out} ${to.y} ${to.right} ${to.y}`;
  }
  const bend = (to.top - from.bottom) / 2;
  const [start, end] = isShortcut ? [from.x + 12, to.x + 12] : [from.x, to.x];
  return `M${start} ${from.bottom}C${start} ${from.bottom + bend} ${end} ${to.top - bend} ${end} ${to.top}`;
}
