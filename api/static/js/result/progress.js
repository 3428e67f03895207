// The panel while a job is under way: its steps, a progress bar, and the button that cancels it.

import { button, h } from "../view/dom.js";
import { headerOf, updateTitle } from "./header.js";
import { library } from "../library/library.js";
import { showProgress, stateText } from "../library/sound-list.js";
import { t } from "../words.js";

/** @import { Sound } from "../library/sound.js" */

const PHASES = ["uploading", "queued", "running"]; // one step each

/**
 * The elements stay the same while a job is under way: a button that is being pressed must not be replaced.
 * @param {Sound} sound
 */
export function buildProgress(sound) {
  const header = headerOf(
    sound,
    button(t("common.cancel"), "stop", () => library.cancel(sound)),
  );
  const steps = /** @type {const} */ (["step.upload", "step.queue", "step.network"]).map((key) => h("li", { text: t(key) }));
  const bar = h("progress", { max: 1, "aria-label": t("common.progress") });
  const state = h("p", { class: "muted number" });
  const element = h("section", { class: "panel", "aria-label": t("common.progress") }, header, h("ol", { class: "steps" }, steps), bar, state);
  function update() {
    const at = PHASES.indexOf(sound.phase);
    updateTitle(header, sound);
    steps.forEach((step, i) => {
      step.classList.toggle("done", i < at);
      if (i === at) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    });
    bar.hidden = sound.phase === "waiting";
    showProgress(bar, sound);
    state.textContent = stateText(sound);
  }
  return { sound, element, update };
}
