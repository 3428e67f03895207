// The level of the microphone, while a recording runs.

import { h } from "../view/dom.js";
import { t } from "../words.js";

const LOUD = 0.98; // peak from which on the sound may be clipped

/** The meter, and what shows a peak of 0 to 1 on it. */
export function levelMeter() {
  const level = h("div", {});
  const element = h(
    "div",
    {
      class: "level",
      role: "meter",
      "aria-label": t("upload.level"),
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      "aria-valuenow": "0.00",
    },
    level,
  );
  /** @param {number} peak */
  function show(peak) {
    level.style.transform = `scaleX(${Math.min(1, peak)})`;
    element.classList.toggle("loud", peak >= LOUD);
    element.setAttribute("aria-valuenow", peak.toFixed(2));
  }
  return { element, show };
}
