// One feature map, large, with axes of time and frequency; its cells are read with the pointer or the arrow keys.

import { h } from "../view/dom.js";
import { clock, formatHertz } from "../view/format.js";
import { highlight } from "../state/highlight.js";
import { drawLegend } from "../paint/painter.js";
import { playhead } from "../state/playhead.js";
import { t } from "../words.js";
import { frequencyTicks, timeTicks } from "./axes.js";
import { valueText } from "./colour-scale.js";
import { receptiveRegion } from "./graph.js";
import { MatrixCanvas } from "./matrix-canvas.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { Tick } from "./axes.js" */
/** @import { MapAxes, NetworkNode } from "./graph.js" */

/** Arrow key -> rows and columns. @type {Record<string, [rows: number, columns: number]>} */
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };

/**
 * {element, scaled, title, repaint(scaled), close()}.
 * @param {NetworkNode} node  whose cells they are
 * @param {MapAxes} axes
 * @param {string} title
 * @param {ScaledMatrix} first
 * @param {((row: number, column: number) => void) | null} [onPick]  gets the cell that is clicked, or where Enter is pressed
 */
export function featureMap(node, axes, title, first, onPick = null) {
  let scaled = first;
  const image = new MatrixCanvas(axes);
  const cell = h("div", { class: "cell", hidden: true });
  const frame = h(
    "div",
    {
      class: "frame",
      tabindex: 0,
      role: "application",
      "aria-roledescription": t("map.role"),
      "aria-label":
        t("map.label", { title, rows: first.matrix.rows, columns: first.matrix.columns }) +
        (onPick ? ` ${t("map.enter")}` : ""),
    },
    image.element,
    cell,
  );
  const reading = h("output", { class: "reading number", "aria-live": "polite" });
  const hasField = node.field && node.kind !== "input";
  const hint = h("p", { class: "hint", text: t(hasField ? "map.point_field" : "map.point") + (onPick ? ` ${t("map.click")}` : "") });
  const legend = h("canvas", { width: 128, height: 8, "aria-hidden": "true" });
  const [low, high] = [h("span"), h("span")];
  const element = h(
    "figure",
    { class: "map" },
    h("figcaption", {}, h("b", { text: title }), h("span", { class: "scale number" }, low, legend, high)),
    h(
      "div",
      { class: "plot" },
      h("div", { class: "frequency", "aria-hidden": "true" }, frequencyTicks(axes).map(frequencyLabel)),
      frame,
      h("div", { class: "time", "aria-hidden": "true" }, timeTicks(axes).map(timeLabel)),
    ),
    // Both have the same place, so that nothing below moves while a cell is read: a click there would miss.
    h("div", { class: "readings" }, hint, reading),
  );
  /** The cell that is read. @type {{row: number, column: number} | null} */
  let at = null;
  repaint(first);

  /** @param {ScaledMatrix} next */
  function repaint(next) {
    scaled = next;
    image.show(scaled);
    drawLegend(legend, scaled.colours);
    low.textContent = valueText(scaled, scaled.min);
    high.textContent = valueText(scaled, scaled.max);
    read(null);
  }

  /** @param {{row: number, column: number} | null} next */
  function read(next) {
    at = next;
    cell.hidden = !at;
    hint.classList.toggle("covered", Boolean(at));
    if (!at) {
      reading.textContent = "";
      highlight.set(null);
      return;
    }
    const { matrix } = scaled;
    const { row, column } = at;
    cell.style.left = `${(100 * column) / matrix.columns}%`;
    cell.style.width = `${100 / matrix.columns}%`;
    cell.style.bottom = `${(100 * row) / matrix.rows}%`;
    cell.style.height = `${100 / matrix.rows}%`;
    const frequency = axes.frequencyAt((row + 0.5) / matrix.rows);
    const place = `${clock(timeOf(column), 2)}, ${formatHertz(frequency)}`;
    reading.textContent = t("map.reading", { value: valueText(scaled, matrix.at(row, column)), place });
    highlight.set(receptiveRegion(node, axes, row, column));
  }

  /** Seconds at the middle of a column. @param {number} column */
  const timeOf = (column) => axes.start + ((column + 0.5) / scaled.matrix.columns) * axes.seconds;

  /** The cell under the pointer. @param {PointerEvent} event */
  function cellAt(event) {
    const { rows, columns } = scaled.matrix;
    const box = frame.getBoundingClientRect();
    /** @param {number} share */
    const clamp = (share) => Math.min(Math.max(share, 0), 1 - 1e-9);
    return {
      row: Math.floor(clamp((box.bottom - event.clientY) / box.height) * rows),
      column: Math.floor(clamp((event.clientX - box.left) / box.width) * columns),
    };
  }

  frame.addEventListener("pointermove", (event) => read(cellAt(event)));
  frame.addEventListener("pointerdown", (event) => read(cellAt(event)));
  frame.addEventListener("pointerleave", () => read(null));
  frame.addEventListener("blur", () => read(null));
  frame.addEventListener("click", () => {
    if (!at) return;
    playhead.seek(timeOf(at.column));
    onPick?.(at.row, at.column);
  });
  frame.addEventListener("keydown", (event) => {
    const { rows, columns } = scaled.matrix;
    if (event.key === "Enter" && at && onPick) {
      event.preventDefault();
      event.stopPropagation();
      return onPick(at.row, at.column);
    }
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const { row, column } = at ?? { row: Math.floor(rows / 2), column: -1 + Math.floor(columns / 2) };
    const step = event.shiftKey ? 8 : 1;
    /** @type {(index: number, count: number) => number} */
    const clamp = (index, count) => Math.min(Math.max(index, 0), count - 1);
    read({ row: clamp(row + step * move[0], rows), column: clamp(column + step * move[1], columns) });
  });

  return {
    element,
    title,
    get scaled() {
      return scaled;
    },
    repaint,
    close() {
      if (at) highlight.set(null);
      image.close();
    },
  };
}

/** @param {Tick} tick */
function frequencyLabel({ at, text }) {
  const label = h("span", { text });
  label.style.bottom = `${100 * at}%`;
  return label;
}

/** @param {Tick} tick */
function timeLabel({ at, text }) {
  const label = h("span", { text });
  label.style.left = `${100 * at}%`;
  return label;
}
