// How one number of a feature map was computed: the operations of the network with their real numbers, first to last.

import { button, find, h, present } from "../view/dom.js";
import { formatNumber } from "../view/format.js";
import { isSpectrogram } from "./graph.js";
import { t } from "../words.js";

/** @import { Child } from "../view/dom.js" */
/** @import { Key } from "../words.js" */
/** @import { Arithmetic, Operation } from "../server/types.js" */

/** @typedef {{layer: string, channel: number, row: number, column: number}} CellPlace */

const SHOWN = 6; // channels, or terms of a sum
const SIDE = 9; // numbers of a grid along each side; a larger one is not drawn
const SUMS = ["convolution", "linear"];

/**
 * The operations of a number as a list of steps.
 * @param {Arithmetic} arithmetic
 * @param {(cell: CellPlace) => void} onCell  gets a cell of an earlier layer that was clicked
 * @returns {HTMLElement}
 */
export function arithmeticSteps({ operations }, onCell) {
  return stepList(0);

  /** @param {number} index */
  function stepList(index) {
    return h("ol", { class: "steps" }, steps(index).map((one) => h("li", {}, one)));
  }

  /**
   * The steps that end in an operation, the first one first.
   * @param {number} index
   * @returns {Child[][]}
   */
  function steps(index) {
    const operation = operations[index];
    const { kind, inputs = [] } = operation;
    const own = step(operation);
    const before = ["batch_norm", "activation", "max_pool"].includes(kind) && inputs.length ? steps(inputs[0]) : [];
    return [...before, own];
  }

  /**
   * @param {Operation} operation
   * @returns {Child[]}
   */
  function step(operation) {
    const { kind, value, inputs = [], name = "", numbers = {}, patch } = operation;
    const text = formatNumber(value);
    const input = inputs.length ? formatNumber(operations[inputs[0]].value) : "";
    /** @type {(number: keyof typeof numbers) => string} */
    const number = (key) => formatNumber(numbers[key]);
    switch (kind) {
      case "convolution":
      case "linear":
        return sum(operation);
      case "batch_norm": {
        const [mean, variance, epsilon] = [number("mean"), number("variance"), number("epsilon")];
        const [weight, bias] = [number("weight"), number("bias")];
        const values = { input, mean, variance, epsilon, weight, bias, value: text };
        return [heading("arithmetic.batch_norm"), formula(t("arithmetic.batch_norm.text", values))];
      }
      case "activation":
        return name === "relu"
          ? [heading("arithmetic.relu"), formula(t(value > 0 ? "arithmetic.relu.kept" : "arithmetic.relu.cut", { input }))]
          : [
              h("h5", { text: t("arithmetic.activation", { name }) }),
              formula(t("arithmetic.activation.text", { name, input, value: text })),
            ];
      case "max_pool": {
        const count = patch ? patch.values.length : 0;
        return [
          heading("arithmetic.max_pool"),
          formula(t("arithmetic.max_pool.text", { count, value: text })),
          patch ? gridOf(patch.values, patch.shape[2], t("arithmetic.max_pool")) : null,
        ];
      }
      case "mean": {
        const count = patch ? patch.values.length : 0;
        const { layer, place = [] } = operation;
        const sentence =
          layer && place.length
            ? t("arithmetic.mean.of", { count, value: text, layer, channel: place[0] })
            : t("arithmetic.mean.text", { count, value: text });
        return [heading("arithmetic.mean"), formula(sentence), ...followed(operation)];
      }
      case "add":
      case "subtract":
      case "multiply":
      case "divide":
        return branches(operation);
      case "cell": {
        const [channel, row, column] = operation.place ?? [];
        if (isSpectrogram(name)) return [formula(t("arithmetic.cell.input", { value: text, row, column }))];
        if (channel === undefined) return [formula(t("arithmetic.cell.hidden", { value: text, layer: name }))];
        return [
          formula(t("arithmetic.cell", { value: text, layer: name, channel, row, column })),
          cellButton(operation),
        ];
      }
      default:
        return [formula(name === "constant" ? t("arithmetic.constant", { value: text }) : t("arithmetic.number", { value: text, name }))];
    }
  }

  /**
   * A sum of products: by channel where the kernel has an extent, else term by term.
   * @param {Operation} operation
   * @returns {Child[]}
   */
  function sum(operation) {
    const { kind, value, numbers = {}, patch, kernel } = operation;
    if (!patch || !kernel) return [];
    const [channels, rows, columns] = patch.shape;
    const size = rows * columns;
    const count = patch.values.length;
    const products = patch.values.map((one, i) => one * kernel.values[i]);
    const total = products.reduce((all, one) => all + one, 0);
    const bias = "bias" in numbers ? t("arithmetic.bias", { bias: formatNumber(numbers.bias) }) : "";
    const values = { products: formatNumber(total), count, bias, value: formatNumber(value) };
    const intro = kind === "linear" ? t("arithmetic.linear.text", { count: channels }) : t("arithmetic.convolution.text");
    return [
      h("h5", { text: `${t(kind === "linear" ? "arithmetic.linear" : "arithmetic.convolution")} ${kernelText(operation)}` }),
      h("p", { text: intro }),
      kind === "linear" ? null : h("p", { class: "muted", text: sourceText(operation) }),
      size > 1 ? byChannel(operation, products) : termTable(operation, products),
      formula(t("arithmetic.convolution.sum", values)),
      ...(size > 1 ? followed(operation) : []),
    ];
  }

  /** @param {Operation} operation */
  function kernelText({ kernel }) {
    if (!kernel) return "";
    const [channels, rows, columns] = kernel.shape;
    return rows * columns > 1 || channels > 1 ? `${channels} × ${rows} × ${columns}` : "";
  }

  /** @param {Operation} operation */
  function sourceText({ layer, place = [], patch }) {
    if (!layer || !patch || !place.length) return t("arithmetic.between");
    const [, row, column] = place;
    const [, rows, columns] = patch.shape;
    const name = layer === "input" ? t("arithmetic.spectrogram") : layer;
    const values = { layer: name, low: row, high: row + rows - 1, left: column, right: column + columns - 1 };
    return t("arithmetic.from", values);
  }

  /**
   * The strongest channels of a convolution as buttons, and patch, kernel and products of the chosen one.
   * @param {Operation} operation
   * @param {Float32Array} products
   */
  function byChannel({ patch, kernel, place = [] }, products) {
    if (!patch || !kernel) return null;
    const [channels, rows, columns] = patch.shape;
    const size = rows * columns;
    const sums = Array.from({ length: channels }, (_, i) => total(products.subarray(i * size, (i + 1) * size)));
    const order = sums.map((_, i) => i).sort((a, b) => Math.abs(sums[b]) - Math.abs(sums[a]));
    const most = Math.max(...sums.map(Math.abs), 1e-30);
    const grids = h("div", { class: "grids" });
    /** @param {number} channel */
    const show = (channel) => {
      const [from, to] = [channel * size, (channel + 1) * size];
      const shown = [
        gridOf(patch.values.subarray(from, to), columns, t("arithmetic.patch"), true),
        operator("×", t("arithmetic.times")),
        gridOf(kernel.values.subarray(from, to), columns, t("arithmetic.kernel")),
        operator("=", t("arithmetic.equals")),
        gridOf(products.subarray(from, to), columns, t("arithmetic.products")),
      ];
      grids.replaceChildren(...present(shown));
      for (const one of list.querySelectorAll("button")) {
        one.setAttribute("aria-pressed", String(Number(one.dataset.channel) === channel));
      }
    };
    const first = place[0] ?? 0; // a depthwise convolution has a patch of one channel
    const rest = order.slice(SHOWN);
    const list = h(
      "ul",
      { class: "terms-list", "aria-label": t("arithmetic.strongest_channels", { count: channels }) },
      order.slice(0, SHOWN).map((channel) =>
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", data: { channel }, "aria-pressed": "false", on: { click: () => show(channel) } },
            h("span", { text: t("arithmetic.channel", { channel: channel + first }) }),
            signedBar(sums[channel] / most),
            h("span", { class: "number", text: formatNumber(sums[channel]) }),
          ),
        ),
      ),
      rest.length ? restRow(rest.length, total(rest.map((channel) => sums[channel])), most) : null,
    );
    show(order[0]);
    return h("div", { class: "by-channel" }, channels > 1 ? list : null, grids);
  }

  /**
   * The strongest terms of a sum over channels, with how their inputs were computed.
   * @param {Operation} operation
   * @param {Float32Array} products
   */
  function termTable({ kind, patch, kernel, inputs = [], positions = [] }, products) {
    if (!patch || !kernel) return null;
    const order = Array.from(products.keys()).sort((a, b) => Math.abs(products[b]) - Math.abs(products[a]));
    const most = Math.max(Math.abs(products[order[0]]), 1e-30);
    const rest = order.slice(SHOWN);
    return h(
      "ul",
      { class: "terms-list" },
      order.slice(0, SHOWN).map((position) => {
        const key = kind === "linear" ? "arithmetic.feature" : "arithmetic.channel";
        const at = positions.indexOf(position);
        const [input, weight, product] = [patch.values[position], kernel.values[position], products[position]].map(formatNumber);
        return h(
          "li",
          {},
          h(
            "div",
            { class: "term" },
            h("span", { text: t(key, { channel: position }) }),
            signedBar(products[position] / most),
            h("span", { class: "number", text: t("arithmetic.term", { input, weight, product }) }),
          ),
          at < 0 ? null : follow(inputs[at]),
        );
      }),
      rest.length ? restRow(rest.length, total(rest.map((position) => products[position])), most) : null,
    );
  }

  /**
   * How the inputs of an operation were computed, where they were followed.
   * @param {Operation} operation
   * @returns {Child[]}
   */
  function followed({ inputs = [] }) {
    if (!inputs.length) return [];
    return [h("div", { class: "followed" }, inputs.map(follow))];
  }

  /** @param {number} index */
  function follow(index) {
    const operation = operations[index];
    if (operation.kind === "cell") return isSpectrogram(operation.name ?? "") || !operation.place ? null : cellButton(operation);
    if (operation.kind === "number") return null;
    const place = h("div", {});
    const details = h(
      "details",
      {},
      h("summary", { text: t("arithmetic.how", { value: formatNumber(operation.value) }) }),
      place,
    );
    details.addEventListener("toggle", () => {
      if (details.open && !place.childElementCount) place.append(stepList(index));
    });
    return details;
  }

  /** @param {Operation} operation  of a cell with a place */
  function cellButton({ name: layer = "", value, place = [] }) {
    const [channel, row, column] = place;
    return button(
      t("arithmetic.open_cell", { value: formatNumber(value), layer }),
      null,
      () => onCell({ layer, channel, row, column }),
      { class: "link", title: t("arithmetic.cell", { value: formatNumber(value), layer, channel, row, column }) },
    );
  }

  /**
   * @param {Operation} operation
   * @returns {Child[]}
   */
  function branches({ kind, value, inputs = [] }) {
    const [first, second] = inputs.map((index) => operations[index]);
    const symbol = { add: "+", subtract: "−", multiply: "×", divide: "÷" }[kind] ?? "";
    const shown = [first, second].map((one) => formatNumber(one.value));
    const isResidual = kind === "add" && inputs.some((index) => leadsToSum(index));
    const isGate = kind === "multiply" && second.kind === "activation";
    /** @type {[Key, Key]} */
    const names = isResidual
      ? ["arithmetic.residual", "arithmetic.shortcut"]
      : isGate
        ? ["arithmetic.gated", "arithmetic.gate"]
        : ["arithmetic.first", "arithmetic.second"];
    return [
      heading(/** @type {Key} */ (`arithmetic.${kind}`)),
      h(
        "div",
        { class: "branches" },
        inputs.map((index, i) =>
          h("section", { class: "branch" }, h("h6", { text: t(names[i], { value: shown[i] }) }), stepList(index)),
        ),
      ),
      formula(`${shown.join(` ${symbol} `)} = ${formatNumber(value)}`),
    ];
  }

  /**
   * Whether an operation is a convolution, or one follows from it alone.
   * @param {number} index
   * @returns {boolean}
   */
  function leadsToSum(index) {
    const { kind, inputs = [] } = operations[index];
    return SUMS.includes(kind) || (inputs.length === 1 && leadsToSum(inputs[0]));
  }
}

/** @param {Key} key */
const heading = (key) => h("h5", { text: t(key) });

/** @param {string} text */
const formula = (text) => h("p", { class: "formula number", text });

/** @param {Iterable<number>} values */
const total = (values) => [...values].reduce((all, one) => all + one, 0);

/**
 * @param {string} symbol
 * @param {string} text  for screen readers
 */
const operator = (symbol, text) =>
  h("span", { class: "operator" }, h("span", { "aria-hidden": "true", text: symbol }), h("span", { class: "visually-hidden", text }));

/**
 * A bar to the right for a positive share and to the left for a negative one.
 * @param {number} share  −1 to 1
 */
function signedBar(share) {
  const bar = h("i", { data: { sign: share < 0 ? "minus" : "plus" } });
  bar.style.setProperty("--share", String(Math.abs(share)));
  return h("span", { class: "signed", "aria-hidden": "true" }, bar);
}

/**
 * @param {number} count
 * @param {number} value
 * @param {number} most
 */
const restRow = (count, value, most) =>
  h(
    "li",
    {},
    h(
      "div",
      { class: "term rest" },
      h("span", { text: t("arithmetic.others", { count }) }),
      signedBar(Math.max(-1, Math.min(1, value / most))),
      h("span", { class: "number", text: formatNumber(value) }),
    ),
  );

/**
 * Numbers as a table with colours; the lowest row is the lowest frequency, as on the map.
 * @param {Float32Array} values  row by row
 * @param {number} columns
 * @param {string} caption
 * @param {boolean} [marksPadding]  whether zeros at the edge may lie outside of the map
 */
function gridOf(values, columns, caption, marksPadding = false) {
  const rows = values.length / columns;
  if (rows > SIDE || columns > SIDE) return null;
  const most = Math.max(...Array.from(values, (one) => (Math.abs(one) < 1e30 ? Math.abs(one) : 0)), 1e-30);
  return h(
    "table",
    { class: "numbers", data: { size: Math.max(rows, columns) } },
    h("caption", { text: caption }),
    h(
      "tbody",
      {},
      Array.from({ length: rows }, (_, i) =>
        h(
          "tr",
          {},
          Array.from(values.subarray((rows - 1 - i) * columns, (rows - i) * columns), (value) => {
            const outside = value < -1e30;
            const cell = h("td", {
              text: outside ? "–" : gridNumber(value),
              title: outside || (marksPadding && value === 0) ? t("arithmetic.padding") : formatNumber(value),
              data: { sign: value < 0 ? "minus" : "plus" },
            });
            cell.style.setProperty("--share", String(outside ? 0 : Math.abs(value) / most));
            return cell;
          }),
        ),
      ),
    ),
  );
}

/** With at most three significant digits. @param {number} value */
const gridNumber = (value) => String(Number(value.toPrecision(Math.abs(value) < 1 ? 2 : 3))).replace("-", "−");

/**
 * The section below an opened map: {element, loading(text), problem(text, action), show(arithmetic, …), hide()}.
 * @param {object} options
 * @param {(cell: CellPlace) => void} options.onCell
 * @param {() => void} options.onClose
 */
export function arithmeticPanel({ onCell, onClose }) {
  const body = h("div", { class: "arithmetic-body" });
  const element = h(
    "section",
    { class: "arithmetic", "aria-label": t("arithmetic.title"), tabindex: -1, hidden: true },
    h(
      "header",
      {},
      h("h4", { text: t("arithmetic.title") }),
      h("div", { class: "tools" }, button(t("arithmetic.close"), "close", onClose, { quiet: true, class: "quiet" })),
    ),
    body,
  );
  return {
    element,
    /** @param {string} text  of the cell */
    loading(text) {
      element.hidden = false;
      body.replaceChildren(
        h("p", { class: "muted", text }),
        h("p", { role: "status", text: t("arithmetic.loading") }),
        h("progress", { "aria-label": t("arithmetic.loading") }),
      );
    },
    /**
     * @param {string} text
     * @param {HTMLElement | null} [action]
     */
    problem(text, action = null) {
      element.hidden = false;
      body.replaceChildren(h("p", { class: "problem", role: "alert", text }), ...(action ? [action] : []));
    },
    /**
     * @param {Arithmetic} arithmetic
     * @param {string} place  of the cell, in words
     * @param {string | null} note
     * @param {number | null} shown  the number on the map
     */
    show(arithmetic, place, note, shown) {
      element.hidden = false;
      const { value } = arithmetic.operations[0];
      const texts = { value: formatNumber(value), shown: shown === null ? "" : formatNumber(shown) };
      const close = shown === null || Math.abs(value - shown) <= 2e-3 * Math.max(Math.abs(value), Math.abs(shown), 0.1);
      body.replaceChildren(
        h("p", { class: "place" }, h("b", { text: place })),
        ...(note ? [h("p", { class: "muted", text: note })] : []),
        arithmeticSteps(arithmetic, onCell),
        h("p", { class: "outcome number", text: t(close ? "arithmetic.result" : "arithmetic.rounded", texts) }),
      );
      find(element, "h4")?.scrollIntoView({ block: "nearest" });
    },
    hide() {
      element.hidden = true;
      body.replaceChildren();
    },
  };
}
