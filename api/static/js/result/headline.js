// The verdict as the headline of the panel, and the warnings below it.

import { confidenceLevel } from "./charts.js";
import { h, icon } from "../view/dom.js";
import { className, formatDuration, percent } from "../view/format.js";
import { t } from "../words.js";
import { detectedClasses, headline, isNamed, warningText } from "./verdict.js";

/** @import { ModelCard, Result } from "../server/types.js" */

/**
 * @param {Result} result
 * @param {ModelCard | null} card
 */
export function verdictLine(result, card) {
  const { verdict, predictions, duration } = result;
  const [first] = predictions;
  const several = detectedClasses(result).length > 1;
  const level = confidenceLevel(first.confidence);
  const closest = t("prediction.closest", { class: className(first.class), share: percent(first.confidence) });
  const note = {
    silent: null,
    unknown: h("span", { class: "muted note", text: closest }),
    unsure: h("span", { class: "badge", text: t("prediction.not_sure", { share: percent(first.confidence) }) }),
    named: h("span", { class: "badge", text: t(/** @type {"level.High"} */ (`level.${level}`)) }),
  }[verdict];
  const length = h("span", { class: "muted note", text: t("prediction.in", { duration: formatDuration(duration) }) });
  return h(
    "p",
    { class: "top-class", data: { level: verdict === "unsure" ? "Low" : level, verdict } },
    h("strong", { text: headline(result, card?.classes.length ?? null) }),
    " ",
    several && isNamed(result) ? length : note,
  );
}

/** @param {Result} result */
export function warningList({ warnings }) {
  if (!warnings.length) return null;
  return h(
    "ul",
    { class: "warnings", "aria-label": t("prediction.warnings") },
    warnings.map((warning) => {
      const text = warningText(warning);
      const detail = h("small", { class: "muted", lang: "en", text: ` ${warning.detail}` }); // it has the numbers
      return h(
        "li",
        { data: { code: warning.code } },
        icon("alert"),
        h("span", {}, text, text !== warning.detail && detail),
      );
    }),
  );
}
