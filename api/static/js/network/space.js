// The network in three dimensions: its maps one behind the other, each on a stack as thick as it has channels. It is turned by
// dragging, by keys and by buttons. CSS transforms only: nothing is drawn again while it turns.

import { button, h } from "../view/dom.js";
import { className, percent } from "../view/format.js";
import { t } from "../words.js";
import { scaledMap } from "./colour-scale.js";
import { displayName, inPart } from "./descriptions.js";
import { groupName, isLayer } from "./graph.js";
import { MatrixCanvas } from "./matrix-canvas.js";

/** @import { Result } from "../server/types.js" */
/** @import { Network, NetworkNode } from "./graph.js" */

const [WIDTH, HEIGHT] = [230, 150]; // px, of the first map
const LEAST = 24; // px, of the smallest
const APART = 74; // px, from map to map
const LANE = 190; // px, from network to network
const SHEETS = 4; // of the thickest stack
const SHEET = 4; // px, from sheet to sheet
const CLASSES = 3; // named at the end
const START = { yaw: -50, pitch: -16, zoom: 1 }; // degrees, degrees, factor
const START_NARROW = { yaw: -22, pitch: -24, zoom: 1 }; // more of the depth goes into the screen
const NARROW = 560; // px
const STEP = 8; // degrees that a key or a button turns
const DRAG = 0.35; // degrees a pixel
const FACING = "rotateY(calc(-1 * var(--yaw))) rotateX(calc(-1 * var(--pitch)))"; // takes back the turn of the scene

/** Key -> what it changes. @type {Record<string, Partial<typeof START>>} */
const KEYS = {
  ArrowLeft: { yaw: -STEP },
  ArrowRight: { yaw: STEP },
  ArrowUp: { pitch: STEP },
  ArrowDown: { pitch: -STEP },
  "+": { zoom: 1.25 },
  "-": { zoom: 0.8 },
};

/**
 * {element, repaint(), mark(id), close()}.
 * @param {Network} network
 * @param {Result} result
 * @param {(id: string) => void} onOpen  gets the node that is chosen
 */
export function spaceView(network, result, onOpen) {
  const nodes = [...network.nodes.values()].filter((node) => node.matrix && (isLayer(node) || node.kind === "input"));
  const [{ shape: first }] = nodes;
  // Of several networks side by side, one is above the other, as deep as the deepest.
  const lanes = network.parts.map(({ name }) => nodes.filter((node) => node.id !== "input" && node.part === name));
  const longest = Math.max(...lanes.map((lane) => lane.length));
  const gap = lanes.length > 1 ? 3 : 1; // so that the spectrogram, which is between them, hides none of their names
  const depth = (gap + longest) * APART;
  /** @param {number} lane */
  const heightOf = (lane) => (lane - (lanes.length - 1) / 2) * LANE;
  /** The name of its stage; of the first one of several networks with the network's. @param {NetworkNode} node */
  const titleOf = (node) => (lanes.some(([begin]) => begin === node) ? inPart(node.part, node.stage) : node.stage);
  /** @param {NetworkNode} node */
  const placeIn = (node) => {
    const lane = lanes.findIndex((one) => one.includes(node));
    if (lane < 0) return { y: 0, z: depth / 2 };
    const step = longest > 1 && lanes[lane].length > 1 ? (longest - 1) / (lanes[lane].length - 1) : 1;
    return { y: heightOf(lane), z: depth / 2 - (gap + lanes[lane].indexOf(node) * step) * APART };
  };
  /** @type {{node: NetworkNode, image: MatrixCanvas, plate: HTMLElement}[]} */
  const plates = nodes.map((node, i) => {
    const image = new MatrixCanvas(node.axes);
    const [channels, rows, columns] = node.shape;
    const sheets = Math.min(Math.round(Math.log2(channels) / 3), SHEETS);
    const name = displayName(node);
    const begins = groupName([node]) !== (i ? groupName([nodes[i - 1]]) : "");
    const plate = h(
      "button",
      { type: "button", class: "plate", "aria-label": t("space.open", { name, shape: node.shape.join(" × ") }), data: { id: node.id } },
      Array.from({ length: sheets }, (_, sheet) => {
        const ghost = h("span", { class: "sheet" });
        ghost.style.transform = `translateZ(${-(sheet + 1) * SHEET}px)`;
        return ghost;
      }),
      image.element,
      begins ? h("span", { class: "name", "aria-hidden": "true", text: isLayer(node) ? titleOf(node) : name }) : null,
    );
    const { y, z } = placeIn(node);
    Object.assign(plate.style, {
      width: `${Math.max(WIDTH * Math.sqrt(columns / first[2]), LEAST)}px`,
      height: `${Math.max(HEIGHT * Math.sqrt(rows / first[1]), LEAST)}px`,
      transform: `translate(-50%, -50%) translate3d(0, ${y}px, ${z}px)`,
    });
    plate.addEventListener("click", () => onOpen(node.id));
    return { node, image, plate };
  });
  /** @type {(length: number, transform: string) => HTMLElement} */
  const drawLine = (length, transform) => {
    const line = h("div", { class: "line" });
    Object.assign(line.style, { width: `${length}px`, transform: `translate(-50%, -50%) ${transform}` });
    return line;
  };
  // Along each network, and at both ends from the first to the last of them.
  const lines = lanes.map((_, lane) => drawLine(depth, `translateY(${heightOf(lane)}px) rotateY(90deg)`));
  const across = [depth / 2, -depth / 2].map((z) => drawLine((lanes.length - 1) * LANE, `translateZ(${z}px) rotateZ(90deg)`));
  const answer = h(
    "button",
    { type: "button", class: "plate answer", data: { id: "prediction" }, on: { click: () => onOpen("prediction") } },
    result.predictions.slice(0, CLASSES).map((one) => h("span", { text: `${className(one.class)} ${percent(one.confidence)}` })),
  );
  answer.style.transform = `translate(-50%, -50%) translateZ(${-depth / 2 - 1.2 * APART}px) ${FACING}`;
  const names = plates.flatMap(({ plate }) => [...plate.querySelectorAll(".name")]);
  let drawn = 0;
  const scene = h("div", { class: "scene" }, lines, across, plates.map(({ plate }) => plate), answer);
  const view = h(
    "div",
    { class: "view", role: "application", tabindex: 0, "aria-label": t("space.label"), "aria-describedby": "space-hint" },
    scene,
  );
  /** @type {(label: string, symbol: string, change: Partial<typeof START>) => HTMLElement} */
  const control = (label, symbol, change) => {
    const made = button(label, null, () => turn(change), { quiet: true, class: "quiet" });
    made.append(h("span", { "aria-hidden": "true", text: symbol }));
    return made;
  };
  const element = h(
    "section",
    { class: "space", "aria-label": t("space.title") },
    view,
    h(
      "div",
      { class: "controls" },
      h("p", { id: "space-hint", class: "hint muted", text: t("space.hint") }),
      control(t("space.left"), "←", KEYS.ArrowLeft),
      control(t("space.right"), "→", KEYS.ArrowRight),
      control(t("space.up"), "↑", KEYS.ArrowUp),
      control(t("space.down"), "↓", KEYS.ArrowDown),
      control(t("space.closer"), "+", KEYS["+"]),
      control(t("space.farther"), "−", KEYS["-"]),
      button(t("space.reset"), "fit", reset, { quiet: true, class: "quiet" }),
    ),
  );

  const start = () => (view.clientWidth < NARROW ? START_NARROW : START);
  let { yaw, pitch, zoom } = START;

  /** @param {Partial<typeof START>} change */
  function turn(change) {
    yaw += change.yaw ?? 0;
    pitch = Math.min(Math.max(pitch + (change.pitch ?? 0), -85), 85);
    zoom = Math.min(Math.max(zoom * (change.zoom ?? 1), 0.4), 4);
    place();
  }

  function reset() {
    ({ yaw, pitch, zoom } = start());
    place();
  }

  function place() {
    // So that all of it fits into the box as it stands at first.
    const wide = 1.2 * depth * Math.abs(Math.sin((start().yaw * Math.PI) / 180)) + 1.9 * WIDTH; // the name of the first map included
    const high = HEIGHT + 2 * (lanes.length - 1) * LANE;
    const fit = Math.min(view.clientWidth / wide, lanes.length > 1 ? view.clientHeight / high : 1.4, 1.4) || 1;
    scene.style.setProperty("--yaw", `${yaw}deg`);
    scene.style.setProperty("--pitch", `${pitch}deg`);
    scene.style.setProperty("--zoom", String(zoom * fit));
    scene.style.setProperty("--size", `${Math.min(13 / fit, 22)}px`); // readable where the scene is small
    cancelAnimationFrame(drawn);
    drawn = requestAnimationFrame(thinNames);
  }

  /** Hide names that would cover the prediction or a name in front of them. */
  function thinNames() {
    const places = names.map((name) => ({ name, box: name.getBoundingClientRect() }));
    const shown = [answer.getBoundingClientRect()];
    for (const { name, box } of places) {
      const free = shown.every((other) => box.left > other.right || box.right < other.left || box.top > other.bottom || box.bottom < other.top);
      name.classList.toggle("covered", !free);
      if (free) shown.push(box);
    }
  }

  /** Where the pointer was last, while it turns the scene. @type {{x: number, y: number} | null} */
  let grip = null;
  let moved = 0; // px, of this drag
  view.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    grip = { x: event.clientX, y: event.clientY };
    moved = 0;
  });
  view.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = [event.clientX - grip.x, event.clientY - grip.y];
    moved += Math.hypot(x, y);
    if (moved < 5) return;
    view.setPointerCapture(event.pointerId);
    view.toggleAttribute("data-turning", true);
    grip = { x: event.clientX, y: event.clientY };
    turn({ yaw: x * DRAG, pitch: -y * DRAG });
  });
  for (const end of ["pointerup", "pointercancel"]) {
    view.addEventListener(end, () => {
      grip = null;
      view.toggleAttribute("data-turning", false);
    });
  }
  // The end of a drag is no click; a click by the keyboard has no detail.
  view.addEventListener("click", (event) => event.detail > 0 && moved >= 5 && event.stopPropagation(), { capture: true });
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0" || event.key === "Home") reset();
    else if (Object.hasOwn(KEYS, event.key)) turn(KEYS[event.key]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  let from = START;
  const sizes = new ResizeObserver(() => {
    if (from === start()) return place();
    from = start();
    reset();
  });
  sizes.observe(view);
  scene.addEventListener("transitionend", thinNames);

  function repaint() {
    for (const { node, image } of plates) {
      const scaled = scaledMap(node, network);
      if (scaled) image.show(scaled);
    }
  }
  repaint();

  return {
    element,
    repaint,
    /** Mark the opened node. @param {string | null} id */
    mark(id) {
      for (const { node, plate } of plates) plate.toggleAttribute("data-open", node.id === id);
      answer.toggleAttribute("data-open", id === "prediction");
    },
    close() {
      sizes.disconnect();
      cancelAnimationFrame(drawn);
      for (const { image } of plates) image.close();
      element.remove();
    },
  };
}
