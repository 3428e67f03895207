// The panel of comparisons: the choice of another result, and both side by side while it is open.

import { button, find, h } from "../view/dom.js";
import { library } from "../library/library.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";
import { comparison } from "./comparison.js";

/** @import { ModelCard, Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Classified } from "./comparison.js" */

/**
 * @param {Sound | null} sound
 * @returns {sound is Classified}
 */
const isClassified = (sound) => Boolean(sound?.result);

/**
 * @param {HTMLElement} root
 * @param {ReadonlyMap<string, ModelCard>} cards  by model name
 */
export function mountCompare(root, cards) {
  /** @type {Sound | null} */
  let left = null;
  /** @type {Result | null} */
  let leftResult = null; // as it was drawn
  /** @type {Classified | null} */
  let right = null;
  let open = false;
  /** @type {ReturnType<typeof comparison> | null} */
  let shown = null;
  library.on("list", refresh);
  library.on("change", (sound) => {
    if (sound.ended) refresh();
  });
  settings.on("change", (key) => {
    if (["soundColours", "mapColours", "range", "loudest"].includes(key)) shown?.repaint();
  });

  /** @param {Sound} sound */
  function show(sound) {
    if (left === sound && sound.result === leftResult) return;
    left = sound;
    refresh();
  }

  function refresh() {
    leftResult = left?.result ?? null;
    shown?.close();
    shown = null;
    const others = library.sounds.filter((sound) => sound !== left).filter(isClassified);
    if (!isClassified(left) || others.length === 0) {
      root.replaceChildren();
      return;
    }
    const { model } = left.result;
    const chosen = right && others.includes(right) ? right : null;
    const other = chosen ?? others.find((sound) => sound.result.model === model) ?? others[0];
    const toggle = button(
      t(open ? "compare.close" : "compare.open"),
      open ? "close" : "compare",
      () => {
        open = !open;
        refresh();
        find(root, "header button")?.focus();
      },
      { "aria-expanded": String(open) },
    );
    const select = h(
      "select",
      {
        "aria-label": t("compare.with"),
        on: {
          change: () => {
            right = others[select.selectedIndex];
            refresh();
            find(root, "select")?.focus();
          },
        },
      },
      others.map((sound) => h("option", { text: `${sound.name} (${sound.result.model})`, selected: sound === other })),
    );
    shown = open ? comparison({ left, right: other }, cards) : null;
    root.replaceChildren(
      h(
        "section",
        { class: "panel compare", "aria-label": t("compare.title") },
        h(
          "header",
          {},
          h("h2", { text: t(open ? "compare.beside" : "compare.with") }),
          select,
          h("div", { class: "tools" }, toggle),
        ),
        shown?.element,
      ),
    );
    shown?.repaint();
  }

  return { show };
}
