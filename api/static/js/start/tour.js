// A tour of the page in five steps, which can be left at any moment. Nothing but the step itself is covered.

import { announce, button, find, h } from "../view/dom.js";
import { t } from "../words.js";

/** @import { Key } from "../words.js" */

/**
 * @typedef {object} Step
 * @property {string} name  of its words
 * @property {string} target  a selector: what it is about
 * @property {(() => void)} [before]
 */

/** @type {Step[]} */
const STEPS = [
  { name: "sound", target: "#sound" },
  { name: "answer", target: "#prediction" },
  { name: "network", target: "#network .overview" },
  { name: "layer", target: "#network .detail", before: openLayer },
  { name: "own", target: "#upload" },
];

/** The tour that is under way. @type {HTMLElement | null} */
let current = null;

/** Begin the tour; the focus returns to where it was when it ends. */
export function startTour() {
  if (current) return;
  const origin = document.activeElement;
  let at = 0;
  /** @type {Element | null} */
  let marked = null;
  const heading = h("h2", { id: "tour-title" });
  const text = h("p", { id: "tour-text" });
  const count = h("p", { class: "muted number" });
  const back = button(t("tour.back"), null, () => show(at - 1), { class: "quiet" });
  const next = button(t("tour.next"), null, () => (at < STEPS.length - 1 ? show(at + 1) : leave()), { class: "primary" });
  const dialog = h(
    "div",
    {
      class: "tour panel",
      role: "dialog",
      tabindex: -1,
      "aria-labelledby": "tour-title",
      "aria-describedby": "tour-text",
    },
    h("div", { class: "row" }, heading, button(t("tour.leave"), "close", leave, { quiet: true, class: "quiet" })),
    text,
    h("div", { class: "row" }, count, h("div", { class: "tools" }, back, next)),
  );
  current = dialog;
  document.body.append(dialog);
  addEventListener("keydown", onKey);
  show(0);

  /** @param {number} index */
  function show(index) {
    at = index;
    const { name, target, before } = STEPS[at];
    before?.();
    heading.textContent = t(/** @type {Key} */ (`tour.${name}.title`));
    text.textContent = t(/** @type {Key} */ (`tour.${name}.text`));
    count.textContent = t("tour.count", { step: at + 1, steps: STEPS.length });
    back.disabled = at === 0;
    const label = find(next, "span");
    if (label) label.textContent = t(at < STEPS.length - 1 ? "tour.next" : "tour.end");
    marked?.removeAttribute("data-toured");
    marked = document.querySelector(target);
    marked?.setAttribute("data-toured", "");
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    marked?.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
    if (at === 0) dialog.focus();
    announce(`${heading.textContent}. ${text.textContent}`);
  }

  function leave() {
    marked?.removeAttribute("data-toured");
    removeEventListener("keydown", onKey);
    const within = dialog.contains(document.activeElement);
    dialog.remove();
    current = null;
    if (within && origin instanceof HTMLElement && origin.isConnected) origin.focus();
  }

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    if (event.key !== "Escape") return;
    event.preventDefault();
    leave();
  }
}

/** Open a layer in the middle of the network, unless one is open. */
function openLayer() {
  const { nodes, opened } = { nodes: [...document.querySelectorAll("#network .node[aria-label]")], opened: "#network .detail" };
  if (document.querySelector(opened)) return;
  const node = nodes[Math.floor(nodes.length / 3)];
  if (node instanceof HTMLElement) node.click();
}
