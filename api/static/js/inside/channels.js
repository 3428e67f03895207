// All channels of a layer as small maps, painted as they come into sight; one can be picked.

import { h } from "../dom.js";
import { percent, value } from "../format.js";
import { Picture } from "./picture.js";
import { channelLook } from "./scale.js";

const ORDERS = [
  ["order", "in order"],
  ["mean", "by mean"],
  ["max", "by peak"],
];
let order = "order"; // kept from layer to layer

/** `onPick(channel or null)`. Returns {element, repaint(), close()}. */
export function channelGrid(channels, picked, onPick) {
  const pictures = channels.map(() => new Picture());
  const options = channels.map(({ statistics: { mean, max, sparsity } }, i) =>
    h(
      "div",
      {
        role: "option",
        class: "channel",
        tabindex: -1,
        data: { channel: i },
        "aria-selected": String(i === picked),
        "aria-label": `Channel ${i}, mean ${value(mean)}, peak ${value(max)}, ${percent(sparsity)} zeros`,
        title: `Channel ${i}: mean ${value(mean)}, peak ${value(max)}, ${percent(sparsity)} zeros`,
      },
      pictures[i].element,
      h("span", { class: "tag number", text: i, "aria-hidden": "true" }),
    ),
  );
  const grid = h("div", { class: "grid", role: "listbox", "aria-label": `${channels.length} channels` });
  const choices = ORDERS.map(([key, text]) => h("option", { value: key, text, selected: key === order }));
  const select = h("select", { "aria-label": "Order of channels" }, choices);
  const element = h(
    "div",
    { class: "all" },
    h("label", { class: "sort" }, h("span", { class: "muted", text: "Sorted" }), select),
    grid,
  );
  let now = picked;

  function sort() {
    const indices = channels.map((_, i) => i);
    if (order !== "order") indices.sort((a, b) => channels[b].statistics[order] - channels[a].statistics[order]);
    grid.replaceChildren(...indices.map((i) => options[i]));
    rove(options[now ?? indices[0]]);
  }

  function rove(option) {
    for (const one of options) one.tabIndex = one === option ? 0 : -1;
  }

  function pick(option) {
    const channel = Number(option.dataset.channel);
    now = now === channel ? null : channel;
    options.forEach((one, i) => one.setAttribute("aria-selected", String(i === now)));
    rove(option);
    onPick(now);
  }

  /** The option that a key leads to from another; rows are found by where the page has put them. */
  function neighbour(option, key) {
    const all = [...grid.children];
    const at = all.indexOf(option);
    const across = all.filter((one) => one.offsetTop === option.offsetTop).length;
    const first = all.findIndex((one) => one.offsetTop !== all[0].offsetTop);
    const columns = first < 0 ? across : first;
    const to = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      ArrowUp: at - columns,
      ArrowDown: at + columns,
      Home: 0,
      End: all.length - 1,
    }[key];
    return to === undefined ? null : (all[to] ?? option);
  }

  select.addEventListener("change", () => {
    order = select.value;
    sort();
  });
  grid.addEventListener("click", (event) => {
    const option = event.target.closest(".channel");
    if (option) pick(option);
  });
  grid.addEventListener("keydown", (event) => {
    const option = event.target.closest(".channel");
    if (!option) return;
    const next = neighbour(option, event.key);
    if (next) {
      rove(next);
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") pick(option);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  function repaint() {
    pictures.forEach((picture, i) => picture.show(channelLook(channels[i], channels)));
  }

  sort();
  repaint();
  return { element, repaint, close: () => pictures.forEach((picture) => picture.close()) };
}
