// All channels of a layer as small maps, painted when they become visible; one can be selected.

import { closest, h } from "../view/dom.js";
import { formatNumber, percent } from "../view/format.js";
import { nextIndex, setTabStop } from "../view/roving-focus.js";
import { scaledChannel } from "./colour-scale.js";
import { MatrixCanvas } from "./matrix-canvas.js";
import { t } from "../words.js";

/** @import { Matrix } from "../signal/matrix.js" */

const ORDERS = ({ index: t("grid.index"), mean: t("grid.mean"), max: t("grid.max") });
/** @typedef {keyof typeof ORDERS} Order */

/** Kept from layer to layer. @type {Order} */
let order = "index";

/**
 * {element, repaint(), close()}.
 * @param {Matrix[]} channels
 * @param {(channel: number | null) => void} onSelect  gets the selected channel, or null when it is deselected
 */
export function channelGrid(channels, onSelect) {
  const canvases = channels.map(() => new MatrixCanvas());
  const options = channels.map(({ statistics: { mean, max, sparsity } }, i) => {
    const label = t("grid.label", { mean: formatNumber(mean), max: formatNumber(max), zeros: percent(sparsity) });
    return h(
      "div",
      {
        role: "option",
        class: "channel",
        tabindex: -1,
        data: { channel: i },
        "aria-selected": "false",
        "aria-label": `${t("detail.channel", { channel: i })}, ${label}`,
        title: `${t("detail.channel", { channel: i })}: ${label}`,
      },
      canvases[i].element,
      h("span", { class: "tag number", text: i, "aria-hidden": "true" }),
    );
  });
  const grid = h("div", { class: "grid", role: "listbox", "aria-label": t("prediction.channels", { count: channels.length }) });
  const choices = Object.entries(ORDERS).map(([key, text]) =>
    h("option", { value: key, text, selected: key === order }),
  );
  const select = h("select", { "aria-label": t("grid.order") }, choices);
  const element = h(
    "div",
    { class: "all-channels" },
    h("label", { class: "sort" }, h("span", { class: "muted", text: t("grid.sorted") }), select),
    grid,
  );
  /** @type {number | null} */
  let selected = null;

  function sort() {
    const indices = channels.map((_, i) => i);
    const key = order;
    if (key !== "index") indices.sort((a, b) => channels[b].statistics[key] - channels[a].statistics[key]);
    grid.replaceChildren(...indices.map((i) => options[i]));
    setTabStop(options, options[selected ?? indices[0]]);
  }

  /** @param {HTMLElement} option */
  function toggle(option) {
    const channel = Number(option.dataset.channel);
    selected = selected === channel ? null : channel;
    options.forEach((one, i) => one.setAttribute("aria-selected", String(i === selected)));
    setTabStop(options, option);
    onSelect(selected);
  }

  /**
   * The option that a key leads to; null for other keys. Rows are found by where the layout has put them.
   * @param {HTMLElement} option
   * @param {KeyboardEvent} event
   */
  function neighbour(option, event) {
    const all = /** @type {HTMLElement[]} */ ([...grid.children]);
    const secondRow = all.findIndex((one) => one.offsetTop !== all[0].offsetTop);
    const next = nextIndex(event, all.indexOf(option), all.length, secondRow < 0 ? all.length : secondRow);
    return next === null ? null : all[next];
  }

  select.addEventListener("change", () => {
    order = /** @type {Order} */ (select.value);
    sort();
  });
  grid.addEventListener("click", (event) => {
    const option = closest(event, ".channel");
    if (option) toggle(option);
  });
  grid.addEventListener("keydown", (event) => {
    const option = closest(event, ".channel");
    if (!option) return;
    const next = neighbour(option, event);
    if (next) {
      setTabStop(options, next);
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") toggle(option);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  function repaint() {
    canvases.forEach((canvas, i) => canvas.show(scaledChannel(channels, i)));
  }

  sort();
  repaint();
  return { element, repaint, close: () => canvases.forEach((canvas) => canvas.close()) };
}
