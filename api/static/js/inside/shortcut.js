// What a residual block does, with its own maps: what goes in, what is added to what, and what comes out.

import { h } from "../dom.js";
import { value } from "../format.js";
import { legend } from "../paint/painter.js";
import { bounds, mean } from "./graph.js";
import { Picture } from "./picture.js";
import { look as lookOf, signed } from "./scale.js";
import { projection } from "./words.js";

/** Returns {element, show(looked or null, channel or null), close()}; `looked` is what lookInto gave. */
export function shortcutView(node, net) {
  const input = net.nodes.get(node.inputs[0]);
  const identity = node.shortcut === "identity";
  const steps = {
    input: step(
      "Input",
      identity
        ? "What the layer before has found."
        : `What the layer before has found: the mean of its ${input.shape[0]} channels.`,
    ),
    residual: step("Residual", "What two convolutions would add: amber raises a cell, blue lowers it."),
    shortcut: step(
      "Shortcut",
      identity
        ? "The input again, unchanged."
        : `The shapes differ, so this is a projection: a 1 × 1 convolution ` +
            `brings the input to ${projection(node, input)}.`,
    ),
    sum: step("Sum", "Both together, and what falls below zero is clipped to zero."),
  };
  const scale = h("canvas", { width: 160, height: 8, "aria-hidden": "true" });
  const [least, most] = [h("span"), h("span")];
  const bar = h(
    "p",
    { class: "scale number", hidden: true },
    least,
    scale,
    most,
    h("span", { class: "muted", text: identity ? "the same for all four" : "the same for all but the input" }),
  );
  const note = h("p", { class: "muted" });
  const element = h(
    "section",
    { class: "shortcut", "aria-label": "What this block does" },
    h("h4", { text: "What this block does" }),
    h(
      "div",
      { class: "sum" },
      steps.input.element,
      sign("→", "leads to"),
      steps.residual.element,
      sign("+", "plus"),
      steps.shortcut.element,
      sign("=", "equals"),
      steps.sum.element,
    ),
    bar,
    note,
  );

  function step(title, text) {
    const picture = new Picture({ axes: net.axes });
    const empty = h("span", { class: "empty muted", text: "not looked at yet" });
    picture.element.append(empty);
    const made = h("figure", {}, h("b", { text: title }), picture.element, h("figcaption", { text }));
    return { element: made, picture, empty };
  }

  function show(looked, channel) {
    const of = (name) => looked?.get(`${node.id}${name}`) ?? null;
    const [residual, shortcut, sum] = [of(".residual"), of(".shortcut"), of("")];
    const one = (matrices) => (channel === null ? mean(matrices) : matrices[channel]);
    const put = ({ picture, empty }, look) => {
      empty.hidden = Boolean(look);
      if (look) picture.show(look);
    };
    bar.hidden = !residual;
    if (!residual || !shortcut) {
      put(steps.input, input.matrix && lookOf(input, net));
      put(steps.sum, node.matrix && lookOf(node, net));
      note.textContent = "Look at all channels to see the two parts in between.";
      return;
    }
    const maps = { residual: one(residual), shortcut: one(shortcut), sum: one(sum) };
    const { min, max } = bounds(Object.values(maps));
    const end = Math.max(Math.abs(min), Math.abs(max));
    const look = (matrix) => ({ matrix, colours: signed, min: -end, max: end });
    for (const [name, matrix] of Object.entries(maps)) put(steps[name], look(matrix));
    put(steps.input, identity ? look(maps.shortcut) : input.matrix && lookOf(input, net));
    legend(scale, signed);
    [least.textContent, most.textContent] = [value(-end), `+${value(end)}`];
    const share = strength(residual) / strength(shortcut);
    note.textContent = [
      `${channel === null ? "Means over all channels" : `Channel ${channel}`}.`,
      Number.isFinite(share)
        ? `Over all channels, what is added is ${value(Number(share.toPrecision(2)))} times as strong as what it is added ` +
          "to (root mean square)."
        : "",
      channel === null
        ? "Every channel is clipped before the mean is taken, so this sum can be brighter than its parts; " +
          "a single channel adds up exactly."
        : "",
    ].join(" ");
  }

  return { element, show, close: () => Object.values(steps).forEach(({ picture }) => picture.close()) };
}

const sign = (text, spoken) =>
  h(
    "span",
    { class: "sign" },
    h("span", { "aria-hidden": "true", text }),
    h("span", { class: "visually-hidden", text: spoken }),
  );

/** Root mean square over all channels. */
function strength(matrices) {
  let sum = 0;
  let count = 0;
  for (const { values } of matrices) {
    for (const one of values) sum += one * one;
    count += values.length;
  }
  return Math.sqrt(sum / count);
}
