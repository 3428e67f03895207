// One node of the network, opened: its map, its statistics, its channels, and what its block computes.

import { announce, button, find, h, present } from "../view/dom.js";
import { filePicker } from "../input/file-picker.js";
import { percent } from "../view/format.js";
import { language, t } from "../words.js";
import { arithmeticPanel } from "./arithmetic.js";
import { channelGrid } from "./channel-grid.js";
import { scaledChannel, scaledMap, valueText } from "./colour-scale.js";
import { describe, displayName, receptiveFieldText } from "./descriptions.js";
import { excites } from "./excites.js";
import { exportMap } from "./export-png.js";
import { featureMap } from "./feature-map.js";
import { fetchArithmetic } from "./fetch-arithmetic.js";
import { fetchChannels, hasRequested } from "./fetch-channels.js";
import { isLayer } from "./graph.js";
import { residualBlock } from "./residual-block.js";

/** @import { ScaledMatrix } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Network, NetworkNode } from "./graph.js" */
/** @import { CellPlace } from "./arithmetic.js" */

/**
 * {element, repaint(), hasChannels(), onFile(), explain(cell), close()}.
 * @param {object} options
 * @param {Network} options.network
 * @param {Sound} options.sound
 * @param {NetworkNode} options.node
 * @param {ScaledMatrix} options.scaled  its map
 * @param {(by: number) => void} options.onStep  to the next node (1) or the previous one (-1)
 * @param {() => void} options.onClose
 * @param {(cell: CellPlace) => void} options.onCell  shows how a cell of another layer was computed
 * @param {boolean} [options.withChannels]  fetch the channels at once
 */
export function nodeDetail({ network, sound, node, scaled, onStep, onClose, onCell, withChannels = false }) {
  const { id, kind, axes } = node;
  const layer = isLayer(node);
  const heading = layer || node.part ? id : node.title;
  const hasChannels = layer && node.shape[0] > 1;
  const count = node.shape[0].toLocaleString(language);
  const mapTitle =
    t(kind === "input" ? "detail.spectrogram" : kind === "cam" ? "colours.cam" : "detail.mean");
  const onPick = layer ? (/** @type {number} */ row, /** @type {number} */ column) => explainMean(row, column) : null;
  const mainMap = featureMap(node, axes, mapTitle, scaled, onPick);
  const maps = h("div", { class: "maps" }, mainMap.element);
  const zeros = h("dd", { class: "number", text: t("detail.show") });
  const block = node.shortcut ? residualBlock(node, network) : null;
  const channelSection = h("section", { class: "channels", "aria-label": t("detail.channels") });
  const arithmetic = arithmeticPanel({ onCell, onClose: closeArithmetic });
  const name = displayName(node);
  const quiet = { quiet: true, class: "quiet" };
  const element = h(
    "section",
    { class: "detail", tabindex: -1, "aria-label": t("detail.label", { name }) },
    h(
      "header",
      {},
      h("h3", { text: heading }),
      h(
        "div",
        { class: "tools" },
        button(t("detail.previous"), "back", () => onStep(-1), { ...quiet, "data-step": "-1" }),
        button(t("detail.next"), "back", () => onStep(1), { quiet: true, class: "quiet next", "data-step": "1" }),
        button(t("common.save_png"), "save", save, quiet),
        button(t("common.close"), "close", onClose, quiet),
      ),
    ),
    h("p", { class: "description", text: describe(node, network) }),
    h("div", { class: "map-and-facts" }, maps, h("dl", { class: "facts" }, facts())),
    arithmetic.element,
    block?.element,
    hasChannels ? channelSection : null,
  );
  /** All channels by layer name, once fetched. @type {Map<string, Matrix[]> | null} */
  let fetched = null;
  /** @type {number | null} */
  let selected = null; // channel
  /** Map of the selected channel. @type {ReturnType<typeof featureMap> | null} */
  let channelMap = null;
  /** @type {ReturnType<typeof channelGrid> | null} */
  let grid = null;
  let closed = false;
  /** What plays the part of the sound that excites the selected channel. @type {ReturnType<typeof excites> | null} */
  let exciting = null;
  /** Counts requests for arithmetic: an answer that comes after a newer request is not shown. */
  let asked = 0;

  block?.show(null, null);
  if (hasChannels) {
    if (hasRequested(sound, id) || (withChannels && sound.file)) loadChannels();
    else offerChannels();
  }

  /** Statistics as terms and their values. */
  function facts() {
    const { min, max, mean, sparsity } = scaled.matrix.statistics;
    const [channels, rows, columns] = node.shape;
    /** @type {(term: string, text: string) => HTMLElement[]} */
    const fact = (term, text) => [h("dt", { text: term }), h("dd", { class: "number", text })];
    const field = receptiveFieldText(node, axes);
    return [
      ...fact(t("detail.shape"), layer ? `${channels} × ${rows} × ${columns}` : `${rows} × ${columns}`),
      ...(layer ? fact(t("detail.values"), (channels * rows * columns).toLocaleString(language)) : []),
      ...(layer && field ? fact(t("detail.field"), field) : []),
      ...fact(t("detail.minimum"), valueText(scaled, min)),
      ...fact(t("detail.mean_value"), valueText(scaled, mean)),
      ...fact(t("detail.maximum"), valueText(scaled, max)),
      ...(kind === "input" ? [] : fact(t("detail.zeros"), percent(sparsity))),
      ...(hasChannels ? [h("dt", { text: t("detail.zeros_all") }), zeros] : []),
    ];
  }

  function repaint() {
    const now = scaledMap(node, network);
    if (now) mainMap.repaint(now);
    const channels = fetched?.get(id);
    if (channels && selected !== null) channelMap?.repaint(scaledChannel(channels, selected));
    grid?.repaint();
    if (!fetched) block?.show(null, null);
  }

  /** @param {string | null} [problem]  why they could not be fetched */
  function offerChannels(problem = null) {
    const children = sound.file
      ? [
          button(problem ? t("common.retry") : t("detail.show_all", { count }), problem ? "retry" : "layers", loadChannels, {
            class: "primary",
          }),
          h("p", { class: "muted", text: t("detail.uploaded_again") }),
        ]
      : [
          h("p", {
            text: t("detail.no_file"),
          }),
          filePicker(() => sound),
        ];
    channelSection.replaceChildren(
      ...present([
        h("h4", { text: t("detail.all", { count }) }),
        problem ? h("p", { class: "problem", role: "alert", text: problem }) : null,
        children,
      ]),
    );
  }

  async function loadChannels() {
    if (fetched) return;
    channelSection.replaceChildren(
      h("h4", { text: t("detail.all", { count }) }),
      h("progress", { "aria-label": t("detail.loading") }),
      h("p", { class: "muted", text: t("arithmetic.loading"), role: "status" }),
    );
    try {
      fetched = await fetchChannels(sound, id);
    } catch (error) {
      if (!closed) offerChannels(error instanceof Error ? error.message : String(error));
      return;
    }
    if (closed) return;
    const channels = fetched.get(id);
    if (!channels) return offerChannels(t("detail.no_channels"));
    const hadFocus = channelSection.contains(document.activeElement);
    grid = channelGrid(channels, select);
    channelSection.replaceChildren(h("h4", { text: t("detail.all", { count }) }), grid.element);
    if (hadFocus) find(grid.element, "[tabindex='0']")?.focus();
    block?.show(fetched, null);
    const sparsity = channels.reduce((sum, { statistics }) => sum + statistics.sparsity, 0) / channels.length;
    zeros.textContent = percent(sparsity);
    announce(t("detail.loaded", { count: channels.length, name }));
  }

  /** @param {number | null} channel */
  function select(channel) {
    selected = channel;
    channelMap?.close();
    channelMap?.element.remove();
    exciting?.close();
    exciting = null;
    channelMap = null;
    block?.show(fetched, channel);
    const channels = fetched?.get(id);
    if (channel === null || !channels) return;
    channelMap = featureMap(node, axes, t("detail.channel", { channel }), scaledChannel(channels, channel), (row, column) =>
      explainCell({ layer: id, channel, row, column }),
    );
    exciting = excites(channels[channel], axes, sound, channel);
    channelMap.element.append(exciting.element);
    maps.append(channelMap.element);
    channelMap.element.scrollIntoView({ block: "nearest" }); // the channel may have been selected far below it
  }

  /**
   * Show how a cell of the mean was computed: the strongest channel there.
   * @param {number} row
   * @param {number} column
   */
  async function explainMean(row, column) {
    if (!sound.file) return offerFile();
    const mine = ++asked;
    arithmetic.loading(`${t("arithmetic.of", { channel: "–", layer: id, row, column })}.`);
    try {
      if (!fetched) await loadChannels();
      const channels = (await fetchChannels(sound, id)).get(id);
      if (!channels || closed || mine !== asked) return;
      const values = channels.map((one) => one.at(row, column));
      const channel = values.indexOf(Math.max(...values));
      await explainCell({ layer: id, channel, row, column }, t("arithmetic.strongest", { count }));
    } catch (error) {
      fail(error);
    }
  }

  /**
   * @param {CellPlace} place
   * @param {string | null} [note]
   */
  async function explainCell({ channel, row, column }, note = null) {
    if (!sound.file) return offerFile();
    const mine = ++asked;
    const text = t("arithmetic.of", { channel, layer: id, row, column });
    arithmetic.loading(text);
    try {
      const found = await fetchArithmetic(sound, `${id}:${channel}:${row}:${column}`);
      if (closed || mine !== asked) return;
      const shown = fetched?.get(id)?.[channel]?.at(row, column) ?? null;
      arithmetic.show(found, text, note, shown);
      announce(t("arithmetic.title"));
    } catch (error) {
      if (mine === asked) fail(error);
    }
  }

  /** @param {unknown} error */
  function fail(error) {
    if (closed) return;
    arithmetic.problem(t("arithmetic.failed", { reason: error instanceof Error ? error.message : String(error) }));
  }

  function offerFile() {
    arithmetic.problem(t("arithmetic.no_file"), filePicker(() => sound));
  }

  function closeArithmetic() {
    asked += 1;
    const within = arithmetic.element.contains(document.activeElement);
    arithmetic.hide();
    if (within) find(mainMap.element, ".frame")?.focus();
  }

  function save() {
    const subject = `${sound.name} ${heading}`;
    for (const map of [mainMap, channelMap]) if (map) exportMap(map, axes, subject);
  }

  return {
    element,
    repaint,
    /** Whether its channels are shown. */
    hasChannels: () => fetched !== null,
    /** To be called when the sound has its file again: its channels can then be fetched. */
    onFile() {
      if (hasChannels && !fetched && !hasRequested(sound, id)) offerChannels();
    },
    /**
     * Show how a cell of this layer was computed, with its channel.
     * @param {CellPlace} place
     */
    async explain(place) {
      if (!fetched && hasChannels) await loadChannels();
      if (!closed) await explainCell(place);
    },
    close() {
      closed = true;
      for (const view of [mainMap, channelMap, grid, block, exciting]) view?.close();
    },
  };
}
