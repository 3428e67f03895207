// The whole network, from the spectrogram to the prediction. Pointing at a node highlights what feeds it.

import { closest, find, h, s } from "../view/dom.js";
import { className, percent } from "../view/format.js";
import { highlight } from "../state/highlight.js";
import { setTabStop } from "../view/roving-focus.js";
import { t } from "../words.js";
import { scaledMap } from "./colour-scale.js";
import { describe, displayName, inPart, poolingText, shapeText } from "./descriptions.js";
import { drawEdges, edgesOf } from "./edges.js";
import { ancestors, nodeOf } from "./graph.js";
import { MatrixCanvas } from "./matrix-canvas.js";

/** @import { Result } from "../server/types.js" */
/** @import { Edge } from "./edges.js" */
/** @import { Network, NetworkNode } from "./graph.js" */

const CLASSES = 4; // of the prediction
const MIN_COLUMN = 108; // px, a map and an edge: where a column would be narrower, the groups become rows
const HINT = t("overview.hint");
const SHORTCUT_HINT = ` ${t("overview.shortcuts")}`;
/** Titles of groups that are not layers. @type {Partial<Record<NetworkNode["kind"], string>>} */
const TITLES = {
  input: t("network.spectrogram"),
  cam: t("network.pooling"),
  pool: t("network.pooling"),
  prediction: t("prediction.title"),
};

/**
 * {element, ids, repaint(), mark(id), focus(id), close()}.
 * @param {Network} network
 * @param {Result} result
 * @param {(id: string) => void} onOpen  gets the node that was clicked
 */
export function overview(network, result, onOpen) {
  const { nodes, groups, axes, parts } = network;
  /** @type {Map<string, HTMLElement>} */
  const elements = new Map(); // by id of a node
  /** @type {Map<string, MatrixCanvas>} */
  const images = new Map(); // by id of a node
  const ids = [...nodes.values()].filter(({ matrix, kind }) => matrix || kind === "prediction").map(({ id }) => id);
  const edges = edgesOf(nodes);
  /** @type {Map<Edge, SVGPathElement>} */
  let paths = new Map();

  const hint = HINT + ([...nodes.values()].some(({ shortcut }) => shortcut) ? SHORTCUT_HINT : "");
  const caption = h("p", { class: "caption", text: hint });
  const svg = s("svg", { class: "edges", "aria-hidden": "true" });
  // Columns: the spectrogram, the stages, the pooling and the prediction. Each of several networks has a row of stages.
  const inner = groups.slice(1, -2);
  const lanes = parts.map(({ name }) => inner.filter(([{ part }]) => part === name));
  const columns = 3 + Math.max(...lanes.map((lane) => lane.length));
  const lane = parts.length > 1 ? buildLane : buildGroups;
  const flow = h(
    "div",
    { class: "groups" },
    buildGroup(groups[0], 0),
    lanes.flatMap(lane),
    groups.slice(-2).map((group, i) => buildGroup(group, columns - 2 + i)),
    svg,
  );
  const element = h("div", { class: "overview" }, flow, caption);
  const heights = lanes.map((stages) => Math.max(1, ...stages.map((one) => one.length)));
  const rows = heights.reduce((sum, one) => sum + one, 0);
  flow.style.setProperty("--columns", String(columns));
  flow.style.setProperty("--rows", String(Math.max(rows, ...groups.slice(-2).map((one) => one.length))));
  flow.style.setProperty("--lanes", String(lanes.length));
  flow.toggleAttribute("data-lanes", lanes.length > 1);
  flow.toggleAttribute("data-pyramid", parts.some(({ pooled }) => pooled.length > 1));
  const stops = ids.map(elementOf);
  setTabStop(stops, stops[0]);

  /** @param {NetworkNode[][]} stages */
  function buildGroups(stages) {
    return stages.map((members, i) => buildGroup(members, i + 1));
  }

  /**
   * One of several networks side by side.
   * @param {NetworkNode[][]} stages
   * @param {number} at
   */
  function buildLane(stages, at) {
    const { name } = parts[at];
    const built = h("div", { class: "lane", role: "group", "aria-label": name }, h("h3", { text: name }), buildGroups(stages));
    built.style.setProperty("--row", String(at + 1));
    built.style.setProperty("--stages", String(stages.length));
    return built;
  }

  /**
   * @param {NetworkNode[]} members
   * @param {number} column
   */
  function buildGroup(members, column) {
    const [first] = members;
    const last = members[members.length - 1];
    const name = TITLES[first.kind] ?? first.stage;
    const shape = first.shape.length && first.kind !== "cam" ? last.shape.join(" × ") : null;
    const built = h(
      "div",
      { class: "group", role: "group", "aria-label": inPart(first.part, name), data: { part: first.kind } },
      h(
        "p",
        { class: "name" },
        h("b", { text: name }),
        shape ? h("span", { text: shape, title: t("overview.shape") }) : null,
      ),
      h("div", { class: "members" }, members.map(buildNode)),
    );
    built.style.setProperty("--at", String(column));
    return built;
  }

  /** @param {NetworkNode} node */
  function buildNode(node) {
    const built =
      node.kind === "prediction" ? buildPrediction() : node.kind === "pool" ? buildPool() : buildMap(node);
    elements.set(node.id, built);
    built.dataset.id = node.id;
    return built;
  }

  /** @param {NetworkNode} node */
  function buildMap(node) {
    const image = node.matrix ? new MatrixCanvas(node.axes) : null;
    if (image) images.set(node.id, image);
    return h(
      "button",
      {
        type: "button",
        class: "node",
        tabindex: -1,
        disabled: !node.matrix,
        "aria-label": `${displayName(node)}, ${node.kind === "cam" ? t("overview.heat_map") : shapeText(node.shape)}`,
        "aria-expanded": node.matrix ? "false" : null,
      },
      image?.element ?? h("span", { class: "matrix none", text: t("overview.no_map") }),
      node.block ? h("span", { class: "tag", text: node.block.replace("block", ""), "aria-hidden": "true" }) : null,
      node.kind === "cam" ? h("span", { class: "label", text: node.title }) : null,
    );
  }

  function buildPool() {
    return h("div", { class: "node pool" }, parts.map((part) => h("span", { text: poolingText(part) })));
  }

  function buildPrediction() {
    const shown = result.predictions.slice(0, CLASSES);
    const text = shown.map(({ class: name, confidence }) => `${className(name)} ${percent(confidence)}`).join(", ");
    return h(
      "button",
      {
        type: "button",
        class: "node predictions",
        tabindex: -1,
        "aria-label": t("softmax.open", { text }),
        "aria-expanded": "false",
      },
      shown.map(({ class: name, confidence }) => {
        const bar = h("i");
        bar.style.transform = `scaleX(${confidence})`;
        return h(
          "span",
          { class: "line", "aria-hidden": "true" },
          h("span", { text: className(name) }),
          h("b", { class: "number", text: percent(confidence) }),
          bar,
        );
      }),
    );
  }

  /**
   * Highlight a node and what feeds it, and describe it in the caption.
   * @param {string | null} id
   */
  function trace(id) {
    const traced = id ? ancestors(nodes, id) : new Set();
    flow.toggleAttribute("data-traced", Boolean(id));
    for (const [one, nodeElement] of elements) nodeElement.classList.toggle("traced", traced.has(one));
    for (const [{ from, to }, path] of paths) path.classList.toggle("traced", traced.has(from) && traced.has(to));
    // It does not shrink: at the end of the page, that would move the nodes from under the pointer.
    if (caption.offsetHeight) caption.style.minHeight = `${caption.offsetHeight}px`;
    if (!id) return caption.replaceChildren(hint);
    const node = nodeOf(network, id);
    caption.replaceChildren(h("b", { text: `${titleOf(node)}:` }), ` ${describe(node, network)}`);
  }

  /** Draw the edges again after the layout has changed. */
  function layOut() {
    const width = flow.clientWidth;
    if (!width) return;
    flow.toggleAttribute("data-rows", width / columns < MIN_COLUMN);
    caption.style.minHeight = "";
    paths = drawEdges(svg, flow, edges, (id) => {
      const nodeElement = elementOf(id);
      return find(nodeElement, ".matrix") ?? nodeElement;
    });
  }

  function repaint() {
    for (const [id, image] of images) {
      const scaled = scaledMap(nodeOf(network, id), network);
      if (scaled) image.show(scaled);
    }
  }

  /** @param {string} id */
  function elementOf(id) {
    const found = elements.get(id);
    if (!found) throw new Error(`The overview has no node ${id}.`);
    return found;
  }

  /** @param {Event} event */
  const idOf = (event) => closest(event, ".node")?.dataset.id ?? null;
  flow.addEventListener("pointerover", (event) => trace(idOf(event)));
  flow.addEventListener("pointerleave", () => trace(null));
  flow.addEventListener("focusin", (event) => {
    const id = idOf(event);
    if (id && ids.includes(id)) setTabStop(stops, elementOf(id));
    if (event.target instanceof Element && event.target.matches(":focus-visible")) trace(id);
  });
  flow.addEventListener("focusout", () => trace(null));
  flow.addEventListener("click", (event) => {
    const id = idOf(event);
    if (id && ids.includes(id)) onOpen(id);
  });

  // The highlighted region is shown here as well: the spectrogram itself may be scrolled out of view.
  const outline = h("div", { class: "highlight", hidden: true });
  images.get("input")?.element.append(outline);
  const unsubscribe = highlight.on("change", () => {
    const { region } = highlight;
    outline.hidden = !region;
    if (!region) return;
    /** @param {number} seconds */
    const share = (seconds) => `${(100 * seconds) / axes.seconds}%`;
    Object.assign(outline.style, {
      left: share(region.start - axes.start),
      width: share(region.end - region.start),
      bottom: `${100 * region.low}%`,
      height: `${100 * (region.high - region.low)}%`,
    });
  });

  const resized = new ResizeObserver(layOut);
  resized.observe(flow);
  repaint();

  return {
    element,
    ids,
    repaint,
    /**
     * Mark the node that is open.
     * @param {string | null} id
     */
    mark(id) {
      for (const one of ids) elementOf(one).setAttribute("aria-expanded", String(one === id));
      if (id) setTabStop(stops, elementOf(id));
    },
    /** @param {string} id */
    focus: (id) => elementOf(id).focus(),
    close() {
      resized.disconnect();
      unsubscribe();
      for (const image of images.values()) image.close();
    },
  };
}

/** How a node is called at the beginning of its caption. @param {NetworkNode} node */
const titleOf = ({ id, kind, title }) =>
  id.includes(".") || kind === "stage" ? id : title[0].toUpperCase() + title.slice(1);
