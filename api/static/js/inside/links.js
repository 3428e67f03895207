// Lines between the parts of the drawn network, wherever the page has put them.

import { s } from "../dom.js";

const BULGE = 17; // px that a shortcut's arc stands off

/** What leads where: {from, to, kind}, kind one of path, identity, projection, reads. */
export function linksOf(nodes) {
  const links = [];
  for (const { id, kind, inputs, shortcut } of nodes.values()) {
    for (const from of inputs) {
      links.push({ from, to: id, kind: kind === "cam" ? "reads" : "path" });
      if (shortcut) links.push({ from, to: id, kind: shortcut });
    }
  }
  if (nodes.has("cam")) links.push({ from: "cam", to: "answer", kind: "reads" });
  return links;
}

/** Draws them into `svg`, which covers `root`; `place(id)` is a node's element. Returns the paths, each with its `link`. */
export function drawLinks(svg, root, links, place) {
  const rows = root.hasAttribute("data-rows");
  const origin = root.getBoundingClientRect();
  const boxes = new Map();
  const box = (id) => {
    if (!boxes.has(id)) boxes.set(id, relative(place(id).getBoundingClientRect(), origin));
    return boxes.get(id);
  };
  const paths = links.map((link) => {
    const path = s("path", {
      class: `link ${link.kind}`,
      d: course(box(link.from), box(link.to), link.kind, origin, rows),
    });
    path.link = link;
    return path;
  });
  svg.replaceChildren(...paths);
  return paths;
}

function relative(rect, origin) {
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

/** A line around what is in between, where that is more than a neighbour: beside the rows, or below the columns. */
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

function course(from, to, kind, page, rows) {
  const arc = kind === "identity" || kind === "projection";
  const beside = from.right <= to.left + 1;
  const level = Math.abs(from.y - to.y) < (to.bottom - to.top) / 2;
  if (beside && arc && level) {
    const top = Math.min(from.top, to.top) - BULGE;
    return `M${from.x} ${from.top}C${from.x} ${top} ${to.x} ${top} ${to.x} ${to.top}`;
  }
  const far = rows
    ? to.top - from.bottom > 2 * (from.bottom - from.top)
    : to.left - from.right > from.right - from.left;
  if (far && kind === "path") return around(from, to, page, rows);
  if (beside) {
    // A shortcut runs beside the path, a little above it.
    const off = arc ? Math.min(10, (to.bottom - to.top) / 4) : 0;
    const bend = (to.left - from.right) * 0.55;
    const [start, end] = [from.y - off, to.y - off];
    return `M${from.right} ${start}C${from.right + bend} ${start} ${to.left - bend} ${end} ${to.left} ${end}`;
  }
  if (arc && Math.abs(from.x - to.x) < 8) {
    const out = Math.max(from.right, to.right) + BULGE;
    return `M${from.right} ${from.y}C${out} ${from.y} ${out} ${to.y} ${to.right} ${to.y}`;
  }
  const bend = (to.top - from.bottom) / 2;
  const [start, end] = arc ? [from.x + 12, to.x + 12] : [from.x, to.x];
  return `M${start} ${from.bottom}C${start} ${from.bottom + bend} ${end} ${to.top - bend} ${end} ${to.top}`;
}
