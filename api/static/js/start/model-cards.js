// The models that are served, readable before a sound is sent: what each knows, how right it is, its licence.

import { button, h } from "../view/dom.js";
import { className, formatDuration, formatHertz, percent } from "../view/format.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";

/** @import { ModelCard } from "../server/types.js" */
/** @import { Key } from "../words.js" */

/**
 * Show the cards in a dialog.
 * @param {ModelCard[]} cards
 * @param {string} selected  name of the chosen model
 */
export function showModelCards(cards, selected) {
  const dialog = h("dialog", { class: "models", "aria-labelledby": "models-title" });
  dialog.append(
    h(
      "header",
      {},
      h("h2", { id: "models-title", text: t("models.title") }),
      button(t("models.close"), "close", () => dialog.close(), { quiet: true, class: "quiet" }),
    ),
    h("p", { class: "muted", text: t("models.text") }),
    h("div", { class: "model-list" }, cards.map((card) => cardOf(card, card.name === selected, dialog))),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // the backdrop
  });
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {ModelCard} card
 * @param {boolean} isSelected
 * @param {HTMLDialogElement} dialog
 */
function cardOf(card, isSelected, dialog) {
  const { name, description, classes, sample_rate, window_seconds, parameters, accuracy, licence, multi_label } = card;
  /** @type {(key: Key, value: string) => HTMLElement[]} */
  const fact = (key, value) => [h("dt", { text: t(key) }), h("dd", { text: value })];
  const count = classes.length;
  const input = t("models.input.text", {
    seconds: formatDuration(window_seconds),
    rate: formatHertz(sample_rate),
    parameters: parameters.toLocaleString(document.documentElement.lang),
  });
  const use = button(t(isSelected ? "models.chosen" : "models.choose"), isSelected ? "check" : null, () => {
    settings.set("model", name);
    dialog.close();
  });
  use.disabled = isSelected;
  return h(
    "section",
    { "aria-label": name, data: { model: name } },
    h("header", {}, h("h3", { text: name }), use),
    h("p", { text: description }),
    h(
      "dl",
      {},
      fact("models.classes", t(multi_label ? "models.classes.several" : "models.classes.one", { count })),
      fact("models.input", input),
      accuracy.length
        ? accuracy.map(({ data, correct, total, protocol }) =>
            fact("models.accuracy", t("models.accuracy.text", { share: percent(correct / total, 1), correct, total, data, protocol })),
          ).flat()
        : fact("models.accuracy", t("models.accuracy.none")),
      fact("models.licence", licence),
    ),
    h(
      "details",
      {},
      h("summary", { text: t("models.list") }),
      h("ul", { class: "class-list" }, classes.map((one) => h("li", { text: className(one) }))),
    ),
  );
}
