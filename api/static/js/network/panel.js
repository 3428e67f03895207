// The network panel: an overview of all layers, and below it the node that was opened.

import { announce, button, closest, find, h, present } from "../view/dom.js";
import { filePicker } from "../input/file-picker.js";
import { library } from "../library/library.js";
import { NAMES } from "../paint/painter.js";
import { loadPart } from "../server/reachability.js";
import { loadStyle } from "../view/load-style.js";
import { nextIndex } from "../view/roving-focus.js";
import { settings } from "../state/settings.js";
import { COLOUR_SETTINGS, scaledMap } from "./colour-scale.js";
import { describe, displayName } from "./descriptions.js";
import { nodeDetail } from "./detail.js";
import { predictionDetail } from "./softmax.js";
import { buildNetwork, nodeOf } from "./graph.js";
import { overview } from "./overview.js";
import { language, t } from "../words.js";

/** @import { ModelCard, Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Network } from "./graph.js" */
/** @import { CellPlace } from "./arithmetic.js" */

/** @typedef {{sound: Sound, result: Result | null, card: ModelCard | null, file: File | null}} Shown */

/**
 * @typedef {object} View  a drawn network
 * @property {Sound} sound
 * @property {Network} network
 * @property {ReturnType<typeof overview>} nodes
 * @property {HTMLElement} panel
 * @property {HTMLElement} place  where an opened node is shown
 * @property {boolean} complete  every layer has its map
 */

/** @param {HTMLElement} root */
export function mountNetwork(root) {
  /** @type {Shown | null} */
  let shown = null;
  /** @type {View | null} */
  let view = null;
  /** @type {{id: string, detail: ReturnType<typeof nodeDetail> | ReturnType<typeof predictionDetail>} | null} */
  let opened = null;

  /** The network in three dimensions, of what is shown. @type {ReturnType<typeof import("./space.js").spaceView> | null} */
  let space = null;
  let wantsSpace = false;

  /** Whether the example has gone through the network before the visitor's eyes. */
  let arrived = false;

  settings.watch(COLOUR_SETTINGS, () => {
    view?.nodes.repaint();
    space?.repaint();
    opened?.detail.repaint();
  });

  /**
   * @param {Sound} sound
   * @param {ModelCard | null} card
   */
  function show(sound, card) {
    const { view: result, file } = sound;
    const same = shown?.sound === sound && shown.result === result && shown.card === card;
    const sameFile = same && shown?.file === file;
    shown = { sound, result, card, file };
    if (sameFile) return;
    // A reopened result has its file again.
    if (same && view?.complete) return opened?.detail.onFile();
    draw(sound, card);
  }

  /**
   * @param {Sound} sound
   * @param {ModelCard | null} card
   */
  function draw(sound, card) {
    const { view: result } = sound;
    const reopen = opened?.id;
    const withChannels = opened?.detail.hasChannels() ?? false;
    clear();
    if (!result) return;
    if (!card) return showMessage(t("network.no_model", { model: result.model }));
    if (!result.maps.size) return showMessage(t("network.no_maps"), resubmitButton(sound));
    const network = buildNetwork(card, result);
    const nodes = overview(network, result, toggle);
    const place = h("div", { class: "opened" });
    const spaceButton = button(t("space.button"), "cube", toggleSpace, { class: "quiet", "aria-pressed": String(wantsSpace) });
    const missing = card.layers.filter(({ name }) => !result.maps.has(name)).length;
    const notice = t("network.missing", { missing, of: card.layers.length });
    const panel = h(
      "section",
      { class: "panel network", "aria-label": t("network.title"), on: { keydown: onKey } },
      h(
        "header",
        {},
        h("h2", { text: t("network.title") }),
        h("p", { class: "muted", text: summary(card) }),
        h("div", { class: "tools" }, spaceButton, ...colourTools()),
      ),
      missing ? h("div", { class: "notice" }, h("p", { text: notice }), resubmitButton(sound)) : null,
      nodes.element,
      place,
    );
    root.replaceChildren(panel);
    if (sound.example && !arrived) showArriving(nodes.element);
    view = { sound, network, nodes, panel, place, complete: missing === 0 };
    if (wantsSpace) showSpace(view, result);
    if (reopen && nodes.ids.includes(reopen)) open(view, reopen, withChannels);
  }

  /** @param {MouseEvent} event */
  async function toggleSpace({ currentTarget }) {
    wantsSpace = !wantsSpace;
    const mark = () => currentTarget instanceof Element && currentTarget.setAttribute("aria-pressed", String(wantsSpace));
    mark();
    if (wantsSpace && view && shown?.result) {
      await showSpace(view, shown.result);
      mark();
      return;
    }
    space?.close();
    space = null;
  }

  /**
   * Show the network in three dimensions, whose code is loaded now; where it cannot be, it is no longer wanted.
   * @param {View} current
   * @param {Result} result
   */
  async function showSpace(current, result) {
    const loaded = await loadPart(Promise.all([import("./space.js"), loadStyle("space")]));
    if (!loaded) {
      wantsSpace = false;
      return;
    }
    const made = loaded[0].spaceView(current.network, result, toggle);
    if (view !== current || !wantsSpace || space) return made.close(); // closed meanwhile
    space = made;
    current.place.before(space.element);
    space.mark(opened?.id ?? null);
  }

  /**
   * Let the groups of the network appear one after another when they come into view.
   * @param {HTMLElement} element
   */
  function showArriving(element) {
    const seen = new IntersectionObserver(([{ isIntersecting }]) => {
      if (!isIntersecting) return;
      seen.disconnect();
      arrived = true;
      element.toggleAttribute("data-arriving", true);
    });
    seen.observe(element);
  }

  function clear() {
    opened?.detail.close();
    view?.nodes.close();
    space?.close();
    view = opened = space = null;
    root.replaceChildren();
  }

  /**
   * @param {string} text
   * @param {HTMLElement | null} [action]
   */
  function showMessage(text, action = null) {
    root.replaceChildren(
      h(
        "section",
        { class: "panel network", "aria-label": t("network.title") },
        h("header", {}, h("h2", { text: t("network.title") })),
        h("div", { class: "notice" }, ...present([h("p", { text }), action])),
      ),
    );
  }

  /** @param {string} id */
  function toggle(id) {
    if (!view) return;
    if (opened?.id === id) return close();
    open(view, id);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const below = view.place.getBoundingClientRect().top + 260 > innerHeight;
    if (below) view.panel.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
  }

  /**
   * @param {View} view
   * @param {string} id
   * @param {boolean} [withChannels]  fetch the channels at once: another version of the sound had them
   */
  function open({ sound, network, nodes, panel, place }, id, withChannels = false) {
    const node = nodeOf(network, id);
    const scaled = scaledMap(node, network);
    if (!scaled && node.kind !== "prediction") return;
    opened?.detail.close();
    const common = { network, sound, node, onStep: step, onClose: close, onCell: explain };
    const detail = scaled ? nodeDetail({ ...common, scaled, withChannels }) : predictionDetail(common);
    opened = { id, detail };
    place.replaceChildren(detail.element);
    panel.toggleAttribute("data-open", true);
    nodes.mark(id);
    space?.mark(id);
    announce(t("network.opened", { name: displayName(node), text: describe(node, network) }));
  }

  /**
   * Open the layer of a cell, and show how the cell was computed.
   * @param {CellPlace} cell
   */
  function explain(cell) {
    if (!view) return;
    const within = view.place.contains(document.activeElement);
    if (opened?.id !== cell.layer) open(view, cell.layer, true);
    if (within) opened?.detail.element.focus({ preventScroll: true });
    opened?.detail.explain(cell);
  }

  /**
   * Open the next node or the previous one; the focus stays where it was.
   * @param {number} by  1 or -1, or more
   */
  function step(by) {
    if (!view || !opened) return;
    const { nodes, place } = view;
    const next = nodes.ids[nodes.ids.indexOf(opened.id) + by];
    if (!next) return;
    const focused = document.activeElement;
    const within = place.contains(focused);
    const pressed = within && focused instanceof HTMLElement ? focused.dataset.step : null;
    open(view, next);
    if (pressed) find(place, `[data-step="${pressed}"]`)?.focus();
    else if (within) opened.detail.element.focus({ preventScroll: true });
  }

  function close() {
    if (!view || !opened) return;
    const { nodes, panel, place } = view;
    const { id, detail } = opened;
    const within = place.contains(document.activeElement);
    detail.close();
    opened = null;
    place.replaceChildren();
    panel.toggleAttribute("data-open", false);
    nodes.mark(null);
    space?.mark(null);
    if (within) nodes.focus(id);
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (!view) return;
    if (event.key === "Escape" && opened) {
      close();
      return event.stopPropagation();
    }
    if (event.shiftKey || closest(event, "select, input, [role='listbox'], [role='application']")) return;
    const { nodes } = view;
    const focused = closest(event, ".node")?.dataset.id;
    const from = focused ?? opened?.id;
    if (!from) return;
    const at = nodes.ids.indexOf(from);
    const next = nextIndex(event, at, nodes.ids.length);
    if (next === null) return;
    event.preventDefault();
    event.stopPropagation();
    if (next === at) return;
    if (!focused) return step(next - at);
    nodes.focus(nodes.ids[next]);
    if (opened) open(view, nodes.ids[next]);
  }

  return { show };
}

/**
 * The size of a network in a line.
 * @param {ModelCard} card
 */
function summary({ name, parameters, layers }) {
  const blocks = layers.filter(({ kind }) => kind === "residual" || kind === "plain").length;
  const values = { name, count: blocks || layers.length, parameters: parameters.toLocaleString(language) };
  return t(blocks ? "network.blocks" : "network.stages", values);
}

/** @param {Sound} sound */
function resubmitButton(sound) {
  return sound.file ? button(t("network.again"), "retry", () => library.resubmit(sound)) : filePicker(() => sound);
}

/** The choice of the colours of maps, and of their scale. */
function colourTools() {
  const colours = h(
    "select",
    { "aria-label": t("network.colours") },
    NAMES.map((name) => h("option", { value: name, text: name, selected: name === settings.get("mapColours") })),
  );
  colours.addEventListener("change", () => settings.set("mapColours", colours.value));
  const scale = h(
    "select",
    { "aria-label": t("network.scale") },
    h("option", { value: "own", text: t("network.own") }),
    h("option", { value: "shared", text: t("network.shared"), selected: settings.get("sharedScale") }),
  );
  scale.addEventListener("change", () => settings.set("sharedScale", scale.value === "shared"));
  return [colours, scale];
}
