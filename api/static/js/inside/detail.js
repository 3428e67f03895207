// One part of the network, opened: its map to read, its numbers, its channels, and what it does with its input.

import { chooser } from "../chooser.js";
import { announce, button, h } from "../dom.js";
import { percent, value } from "../format.js";
import { channelGrid } from "./channels.js";
import { lookInto } from "./look.js";
import { mapView } from "./map.js";
import { saveMap } from "./save.js";
import { channelLook, look } from "./scale.js";
import { shortcutView } from "./shortcut.js";
import { hearing, sentence, spoken } from "./words.js";

/** `onStep(-1 or 1)`, `onClose()`. Returns {element, repaint(), fileCame(), close()}. */
export function detail({ net, sound, id, onStep, onClose }) {
  const node = net.nodes.get(id);
  const layer = !["input", "cam"].includes(node.kind);
  const inner = layer && node.shape[0] > 1;
  const main = mapView(node, net.axes);
  const maps = h("div", { class: "maps" }, main.element);
  const zeros = h("dd", { class: "number", text: "look at all channels" });
  const facts = h("dl", { class: "facts" }, numbers());
  const block = node.shortcut ? shortcutView(node, net) : null;
  const all = h("section", { class: "channels", "aria-label": "Channels" });
  const name = spoken(node);
  const element = h(
    "section",
    { class: "detail", tabindex: -1, "aria-label": `${name}, opened` },
    h(
      "header",
      {},
      h("h3", { text: layer ? id : node.title }),
      h(
        "div",
        { class: "tools" },
        button("Previous layer", "back", () => onStep(-1), { quiet: true, class: "quiet", "data-step": "-1" }),
        button("Next layer", "back", () => onStep(1), { quiet: true, class: "quiet next", "data-step": "1" }),
        button("Save as PNG", "save", save, { quiet: true, class: "quiet" }),
        button("Close", "close", onClose, { quiet: true, class: "quiet" }),
      ),
    ),
    h("p", { class: "what", text: sentence(node, net) }),
    h("div", { class: "look" }, maps, facts),
    block?.element,
    node.kind === "plain" ? h("p", { class: "muted", text: "A plain block: nothing is passed around it." }) : null,
    inner ? all : null,
  );
  let looked = null; // Map of name -> [Matrix]
  let channel = null;
  let single = null; // map view of the picked channel
  let grid = null;
  let closed = false;

  repaint();
  block?.show(null, null);
  if (inner) {
    if (sound.looks.has(id)) fetch();
    else offer();
  }

  function numbers() {
    const { min, max, mean } = node.matrix.statistics;
    const unit = node.kind === "input" ? " dB" : "";
    const [channels, rows, columns] = node.shape;
    const fact = (term, text) => [h("dt", { text: term }), h("dd", { class: "number", text })];
    const field = hearing(node, net.axes);
    return [
      fact("Size", layer ? `${channels} × ${rows} × ${columns}` : `${rows} × ${columns}`),
      layer ? fact("Numbers", (channels * rows * columns).toLocaleString("en")) : [],
      layer && field ? fact("One cell hears", field) : [],
      fact("Minimum", value(min) + unit),
      fact("Mean", value(mean) + unit),
      fact("Maximum", value(max) + unit),
      node.kind === "input" ? [] : fact("Zeros in it", percent(node.matrix.statistics.sparsity)),
      inner ? [h("dt", { text: "Zeros in all channels" }), zeros] : [],
    ].flat();
  }

  function repaint() {
    const titles = { input: "Log-mel spectrogram", cam: "Class activation" };
    main.show(look(node, net), titles[node.kind] ?? "Mean of all channels");
    single?.show(channelLook(looked.get(id)[channel], looked.get(id)), `Channel ${channel}`);
    grid?.repaint();
    if (!looked) block?.show(null, null);
  }

  function offer(problem = null) {
    const count = node.shape[0].toLocaleString("en");
    all.replaceChildren(
      h("h4", { text: `All ${count} channels` }),
      problem ? h("p", { class: "problem", role: "alert", text: problem }) : null,
      ...(sound.file
        ? [
            button(problem ? "Try again" : `Look at all ${count} channels`, problem ? "retry" : "layers", fetch, {
              class: "primary",
            }),
            h("p", { class: "muted", text: "The server keeps no sound, so yours is sent once more." }),
          ]
        : [
            h("p", {
              text: "This page does not have the sound, and the server keeps none. Choose the same file again to look further.",
            }),
            chooser(() => sound),
          ]),
    );
  }

  async function fetch() {
    all.replaceChildren(
      h("h4", { text: `All ${node.shape[0].toLocaleString("en")} channels` }),
      h("progress", { "aria-label": "Looking at the channels" }),
      h("p", { class: "muted", text: "The network is listening once more…", role: "status" }),
    );
    try {
      looked = await lookInto(sound, id);
    } catch (error) {
      if (!closed) offer(error.detail ?? error.message);
      return;
    }
    if (closed) return;
    const channels = looked.get(id);
    if (!channels) return offer("The server sent no channels of this layer.");
    const within = all.contains(document.activeElement);
    grid = channelGrid(channels, null, pick);
    all.replaceChildren(h("h4", { text: `All ${channels.length.toLocaleString("en")} channels` }), grid.element);
    if (within) grid.element.querySelector("[tabindex='0']").focus();
    block?.show(looked, null);
    zeros.textContent = percent(
      channels.reduce((sum, { statistics }) => sum + statistics.sparsity / channels.length, 0),
    );
    announce(`${channels.length} channels of ${name}`);
  }

  function pick(next) {
    channel = next;
    single?.close();
    single?.element.remove();
    single = null;
    block?.show(looked, channel);
    if (channel === null) return;
    single = mapView(node, net.axes);
    maps.append(single.element);
    single.show(channelLook(looked.get(id)[channel], looked.get(id)), `Channel ${channel}`);
  }

  function save() {
    for (const map of [main, single]) if (map) saveMap(map, net.axes, `${sound.name} ${layer ? id : node.title}`);
  }

  return {
    element,
    repaint,
    /** The sound's file is there now: the channels can be had. */
    fileCame() {
      if (inner && !looked && !sound.looks.has(id)) offer();
    },
    close() {
      closed = true;
      for (const view of [main, single, grid, block]) view?.close();
    },
  };
}
