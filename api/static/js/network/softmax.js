// The prediction, opened: logits, softmax, and where the logit of a class comes from.

import { announce, button, h } from "../view/dom.js";
import { filePicker } from "../input/file-picker.js";
import { className, clock, formatNumber, percent } from "../view/format.js";
import { t } from "../words.js";
import { arithmeticSteps } from "./arithmetic.js";
import { describe } from "./descriptions.js";
import { fetchArithmetic } from "./fetch-arithmetic.js";
import { LOGITS } from "./graph.js";

/** @import { Arithmetic } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Network, NetworkNode } from "./graph.js" */
/** @import { CellPlace } from "./arithmetic.js" */

const SHOWN = 6; // classes

/**
 * {element, repaint(), hasChannels(), onFile(), close()}, as nodeDetail.
 * @param {object} options
 * @param {Network} options.network
 * @param {Sound} options.sound
 * @param {NetworkNode} options.node
 * @param {(by: number) => void} options.onStep
 * @param {() => void} options.onClose
 * @param {(cell: CellPlace) => void} options.onCell
 */
export function predictionDetail({ network, sound, node, onStep, onClose, onCell }) {
  const { card } = network;
  const body = h("div", { class: "arithmetic-body" });
  const quiet = { quiet: true, class: "quiet" };
  const element = h(
    "section",
    { class: "detail", tabindex: -1, "aria-label": t("softmax.title") },
    h(
      "header",
      {},
      h("h3", { text: t("softmax.title") }),
      h(
        "div",
        { class: "tools" },
        button(t("detail.previous"), "back", () => onStep(-1), { ...quiet, "data-step": "-1" }),
        button(t("common.close"), "close", onClose, quiet),
      ),
    ),
    h("p", { class: "description", text: describe(node, network) }),
    body,
  );
  let closed = false;
  const window = sound.view?.windows?.[sound.view.window];
  const first = (window ?? sound.view)?.predictions[0]?.class ?? card.classes[0];
  if (sound.file) load(first);
  else {
    body.replaceChildren(h("p", { text: t("arithmetic.no_file") }), filePicker(() => sound));
  }

  /** @param {string} name  of the class whose logit is followed */
  async function load(name) {
    if (!body.childElementCount) body.append(h("progress", { "aria-label": t("arithmetic.loading") }));
    let arithmetic;
    try {
      arithmetic = await fetchArithmetic(sound, `${LOGITS}:${name}`);
    } catch (error) {
      if (closed) return;
      const reason = error instanceof Error ? error.message : String(error);
      body.replaceChildren(
        h("p", { class: "problem", role: "alert", text: t("arithmetic.failed", { reason }) }),
        button(t("softmax.show"), "retry", () => load(name)),
      );
      return;
    }
    if (!closed) draw(arithmetic, name);
  }

  /**
   * @param {Arithmetic} arithmetic
   * @param {string} name
   */
  function draw(arithmetic, name) {
    const { logits, temperature } = arithmetic;
    const count = card.classes.length;
    const several = (sound.view?.windows?.length ?? 1) > 1;
    const focused = body.contains(document.activeElement);
    body.replaceChildren(
      h("p", { text: t(card.multi_label ? "softmax.sigmoid" : "softmax.text", { count }) }),
      ...(temperature === 1 ? [] : [h("p", { text: t("softmax.temperature", { temperature: formatNumber(temperature) }) })]),
      ...(several && window
        ? [h("p", { class: "muted", text: t("softmax.window", { start: clock(window.start), end: clock(window.end) }) })]
        : []),
      table(logits, temperature, name),
      h("h4", { text: t("softmax.why", { class: className(name) }) }),
      arithmeticSteps(arithmetic, onCell),
    );
    if (focused) /** @type {HTMLElement | null} */ (body.querySelector("[aria-pressed='true']"))?.focus();
    announce(t("softmax.why", { class: className(name) }));
  }

  /**
   * @param {number[]} logits
   * @param {number} temperature
   * @param {string} chosen
   */
  function table(logits, temperature, chosen) {
    const scaled = logits.map((logit) => logit / temperature);
    const powers = scaled.map((one) => Math.exp(card.multi_label ? -one : one));
    const sum = powers.reduce((all, one) => all + one, 0);
    const shares = powers.map((power) => (card.multi_label ? 1 / (1 + power) : power / sum));
    const order = logits.map((_, i) => i).sort((a, b) => logits[b] - logits[a]);
    const shown = order.slice(0, SHOWN);
    if (!shown.includes(card.classes.indexOf(chosen))) shown.push(card.classes.indexOf(chosen));
    const others = order.filter((i) => !shown.includes(i));
    /** @type {(texts: string[], head: HTMLElement | string) => HTMLElement} */
    const row = (texts, head) =>
      h("tr", {}, h("th", { scope: "row" }, head), texts.map((text) => h("td", { class: "number", text })));
    const hasTemperature = temperature !== 1;
    const restPower = others.reduce((all, i) => all + powers[i], 0);
    return h(
      "div",
      { class: "softmax-table", tabindex: 0, role: "group", "aria-label": t("softmax.table") },
      h(
        "table",
        {},
        h("caption", { class: "visually-hidden", text: t("softmax.table") }),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["softmax.class", "softmax.logit"].map((key) => h("th", { scope: "col", text: t(/** @type {any} */ (key)) })),
            hasTemperature
              ? h("th", { scope: "col", text: t("softmax.scaled", { temperature: formatNumber(temperature) }) })
              : null,
            h("th", { scope: "col", text: t(card.multi_label ? "softmax.power.negative" : "softmax.power") }),
            h("th", { scope: "col", text: t("softmax.share") }),
          ),
        ),
        h(
          "tbody",
          {},
          shown.map((i) => {
            const name = card.classes[i];
            const pick = h("button", {
              type: "button",
              class: "link",
              text: className(name),
              "aria-pressed": String(name === chosen),
              on: { click: () => load(name) },
            });
            const texts = [formatNumber(logits[i]), ...(hasTemperature ? [formatNumber(scaled[i])] : [])];
            return row([...texts, formatNumber(powers[i]), percent(shares[i], 1)], pick);
          }),
          others.length && !card.multi_label
            ? row(
                ["", ...(hasTemperature ? [""] : []), formatNumber(restPower), percent(restPower / sum, 1)],
                t("softmax.others", { count: others.length }),
              )
            : null,
          card.multi_label
            ? null
            : row(["", ...(hasTemperature ? [""] : []), formatNumber(sum), percent(1)], t("softmax.sum")),
        ),
      ),
    );
  }

  return {
    element,
    repaint() {},
    hasChannels: () => false,
    onFile: () => load(first),
    /** @param {CellPlace} _cell */
    explain(_cell) {},
    close() {
      closed = true;
    },
  };
}
