// One map, large: lined up with time and frequency, read by pointing at it or with the arrow keys.

import { h } from "../dom.js";
import { focus } from "../focus.js";
import { clock, hertz, value } from "../format.js";
import { legend } from "../paint/painter.js";
import { playhead } from "../playhead.js";
import { pitchTicks, timeTicks } from "./axes.js";
import { heard } from "./graph.js";
import { Picture } from "./picture.js";

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };

/** `node` says what a cell can hear. Returns {element, show(look, title), look, title, close()}. */
export function mapView(node, axes) {
  const picture = new Picture({ axes });
  const cell = h("div", { class: "cell", hidden: true });
  const frame = h(
    "div",
    { class: "frame", tabindex: 0, role: "application", "aria-roledescription": "map" },
    picture.element,
    cell,
  );
  const name = h("b");
  const reading = h("output", { class: "reading number", "aria-live": "polite" });
  const scale = h("canvas", { width: 128, height: 8, "aria-hidden": "true" });
  const [least, most] = [h("span"), h("span")];
  const element = h(
    "figure",
    { class: "map" },
    h("figcaption", {}, name, h("span", { class: "scale number" }, least, scale, most)),
    h(
      "div",
      { class: "plot" },
      h("div", { class: "pitch", "aria-hidden": "true" }, pitchTicks(axes).map(up)),
      frame,
      h("div", { class: "time", "aria-hidden": "true" }, timeTicks(axes).map(along)),
    ),
    reading,
  );
  let at = null; // [row, column] that is read
  let title = "";

  function show(look, text) {
    title = text;
    name.textContent = text;
    picture.show(look);
    legend(scale, look.colours);
    least.textContent = value(look.min);
    most.textContent = value(look.max);
    const { rows, columns } = look.matrix;
    frame.setAttribute(
      "aria-label",
      `${text}, ${rows} rows of frequency, ${columns} columns of time. Arrow keys read it cell by cell.`,
    );
    read(null);
  }

  function read(next) {
    at = next;
    cell.hidden = !at;
    if (!at) {
      const hears = node.field && node.kind !== "input";
      reading.textContent = `Point at a cell to read it${hears ? "; the box in the spectrogram is what it can hear" : ""}.`;
      focus.set(null);
      return;
    }
    const { matrix } = picture.look;
    const [row, column] = at;
    cell.style.left = `${(100 * column) / matrix.columns}%`;
    cell.style.width = `${100 / matrix.columns}%`;
    cell.style.bottom = `${(100 * row) / matrix.rows}%`;
    cell.style.height = `${100 / matrix.rows}%`;
    const seconds = axes.start + ((column + 0.5) / matrix.columns) * axes.seconds;
    const unit = node.kind === "input" ? " dB" : "";
    const tone = axes.hertz((row + 0.5) / matrix.rows);
    reading.textContent = `${value(matrix.at(row, column))}${unit} at ${clock(seconds, 2)}, ${hertz(tone)}`;
    focus.set(heard(node, axes, matrix, row, column));
  }

  function under(event) {
    const { matrix } = picture.look;
    const box = frame.getBoundingClientRect();
    const share = (part) => Math.min(Math.max(part, 0), 1 - 1e-9);
    return [
      Math.floor(share((box.bottom - event.clientY) / box.height) * matrix.rows),
      Math.floor(share((event.clientX - box.left) / box.width) * matrix.columns),
    ];
  }

  frame.addEventListener("pointermove", (event) => read(under(event)));
  frame.addEventListener("pointerdown", (event) => read(under(event)));
  frame.addEventListener("pointerleave", () => read(null));
  frame.addEventListener("blur", () => read(null));
  frame.addEventListener(
    "click",
    () => at && playhead.seek(axes.start + ((at[1] + 0.5) / picture.look.matrix.columns) * axes.seconds),
  );
  frame.addEventListener("keydown", (event) => {
    const { rows, columns } = picture.look.matrix;
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [row, column] = at ?? [Math.floor(rows / 2), -1 + Math.floor(columns / 2)];
    const step = event.shiftKey ? 8 : 1;
    const kept = (index, end) => Math.min(Math.max(index, 0), end - 1);
    read([kept(row + step * move[0], rows), kept(column + step * move[1], columns)]);
  });

  return {
    element,
    show,
    get look() {
      return picture.look;
    },
    get title() {
      return title;
    },
    close() {
      if (at) focus.set(null);
      picture.close();
    },
  };
}

function up({ at, text }) {
  const tick = h("span", { text });
  tick.style.bottom = `${100 * at}%`;
  return tick;
}

function along({ at, text }) {
  const tick = h("span", { text });
  tick.style.left = `${100 * at}%`;
  return tick;
}
