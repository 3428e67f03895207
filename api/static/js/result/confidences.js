// The confidences of a result: bars, of which one is picked to show where its class is heard, and the donut.

import { areParts, confidenceBars } from "./charts.js";
import { button, find, h, present } from "../view/dom.js";
import { loadPart } from "../server/reachability.js";
import { loadStyle } from "../view/load-style.js";
import { lookInto } from "../library/look.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";
import { isNamed } from "./verdict.js";

/** @import { ModelCard, Prediction, Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

/**
 * @typedef {object} Shown
 * @property {Sound} sound
 * @property {Result} result  of the sound
 * @property {Result | null} before  of its original, where the sound is an edited version
 * @property {ModelCard | null} card  of the model of the result
 */

const TOP = 5; // classes shown at first

/** Shows the confidences of one result at a time. */
export function buildConfidences() {
  /** @type {Shown | null} */
  let shown = null;
  const shares = h("div", { class: "shares" }); // bars and donut
  const toggle = button("", null, toggleAll, { class: "quiet toggle" });
  const donutButton = button(t("donut.button"), "donut", toggleDonut, { class: "quiet donut-toggle" });
  let expanded = false; // all classes
  let unfolded = false; // below a verdict that names no class

  settings.watch(["shares"], updateDonut);
  settings.watch(["cam"], markPicked);

  /** Begin with the first classes, folded below a verdict that names no class. */
  function collapse() {
    expanded = unfolded = false;
  }

  /**
   * Append the confidences of a result to a column of the panel.
   * @param {HTMLElement} column
   * @param {Shown} next
   */
  function appendTo(column, next) {
    shown = next;
    const { result, before } = next;
    const content = [
      shares,
      h(
        "div",
        { class: "actions" },
        result.predictions.length > TOP ? toggle : null,
        areParts(result.predictions) ? donutButton : null,
      ),
      result.cam ? h("p", { class: "pick-hint muted", text: t("prediction.pick") }) : null,
    ];
    if (isNamed(result)) column.append(...present(content));
    else column.append(fold(content, before !== null));
    drawBars(next);
  }

  /**
   * @param {(HTMLElement | null)[]} content
   * @param {boolean} open  in any case
   */
  function fold(content, open) {
    const folded = h("details", { class: "folded" }, h("summary", { text: t("prediction.all_the_same") }), content);
    folded.open = unfolded || open;
    folded.addEventListener("toggle", () => (unfolded = folded.open));
    return folded;
  }

  /** @param {Shown} shown */
  function drawBars({ sound, result, before, card }) {
    const { predictions, cam } = result;
    const listed = expanded ? predictions : firstOf(predictions, before);
    const onPick = cam ? (/** @type {string} */ name) => pick(sound, name) : null;
    shares.replaceChildren(confidenceBars(listed, onPick, card?.parents, before?.predictions));
    toggle.replaceChildren(h("span", { text: expanded ? t("prediction.fewer") : t("prediction.all", { count: predictions.length }) }));
    toggle.setAttribute("aria-expanded", String(expanded));
    markPicked();
    updateDonut();
  }

  function toggleAll() {
    expanded = !expanded;
    if (shown) drawBars(shown);
  }

  function toggleDonut() {
    settings.set("shares", settings.get("shares") === "donut" ? "bars" : "donut");
  }

  /** Draw the donut, or remove it, as the visitor has chosen. Its code is loaded with the first one. */
  async function updateDonut() {
    const isWanted = () => settings.get("shares") === "donut";
    donutButton.setAttribute("aria-pressed", String(isWanted()));
    find(shares, ".donut")?.remove();
    find(shares, ".bars")?.classList.remove("coloured");
    if (!isWanted() || !donutButton.isConnected) return;
    const loaded = await loadPart(Promise.all([import("./donut.js"), loadStyle("donut")]));
    if (!loaded) return;
    const [{ donut }] = loaded;
    const bars = find(shares, ".bars"); // by now they may be others
    if (shown && bars && isWanted() && donutButton.isConnected && !find(shares, ".donut")) {
      shares.append(donut(shown.result.predictions, bars));
    }
  }

  /** Mark the bar of the class whose class activation is shown, or has been requested. */
  function markPicked() {
    const { view = null, looking = null } = shown?.sound ?? {};
    const picked = settings.get("cam") ? (looking ?? view)?.camClass : null;
    for (const row of shares.querySelectorAll(".bars button")) {
      if (!(row instanceof HTMLElement)) continue;
      const isPicked = row.dataset.class === picked;
      row.setAttribute("aria-pressed", String(isPicked));
      row.toggleAttribute("data-busy", isPicked && looking !== null);
    }
  }

  return { appendTo, collapse, markPicked };
}

/**
 * How long the bar of each class is.
 * @param {HTMLElement} root
 * @returns {Map<string, string>}
 */
export function barLengths(root) {
  const rows = [...root.querySelectorAll(".bars [data-class]")].filter((row) => row instanceof HTMLElement);
  return new Map(rows.map((row) => [row.dataset.class ?? "", find(row, ".bar")?.style.transform ?? ""]));
}

/**
 * Let the bars grow or shrink from the lengths that they had for another version of the sound.
 * @param {HTMLElement} root
 * @param {Map<string, string>} from  of barLengths
 */
export function moveBars(root, from) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const row of root.querySelectorAll(".bars [data-class]")) {
    const bar = find(row, ".bar");
    const transform = row instanceof HTMLElement ? from.get(row.dataset.class ?? "") : null;
    if (bar && transform) bar.animate({ transform: [transform, bar.style.transform] }, { duration: 250, easing: "ease-out" });
  }
}

/**
 * Show where a class is heard: its class activation, of a long sound in the window where its confidence is highest. Clicked
 * again, hide it.
 * @param {Sound} sound
 * @param {string} name
 */
function pick(sound, name) {
  const { result, view } = sound;
  if (!result || !view) return;
  const isShown = settings.get("cam") && !sound.looking && view.camClass === name;
  settings.set("cam", !isShown);
  if (!isShown) lookInto(sound, bestWindow(result, name), name);
}

/**
 * The first classes, and that of the original.
 * @param {Prediction[]} predictions
 * @param {Result | null} before
 */
function firstOf(predictions, before) {
  const first = predictions.slice(0, TOP);
  const was = before?.predictions[0].class;
  const missing = predictions.slice(TOP).find((one) => one.class === was);
  return missing ? [...first, missing] : first;
}

/**
 * The window in which a class has its highest confidence, among those with something to hear.
 * @param {Result} result
 * @param {string} name
 */
function bestWindow({ windows, window }, name) {
  let best = { window, confidence: -1 };
  windows?.forEach(({ active, predictions }, i) => {
    const confidence = predictions.find((one) => one.class === name)?.confidence ?? 0;
    if (active !== false && confidence > best.confidence) best = { window: i, confidence };
  });
  return best.window;
}
