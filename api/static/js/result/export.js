// The buttons that copy a result or its link, or save it as a file.

import { button, download, h, toast } from "../view/dom.js";
import { t } from "../words.js";

/** @import { Job, Prediction, Result } from "../server/types.js" */

const CLASSES = 5; // of each list of predictions in the copied JSON

/**
 * @param {Job} job
 * @param {Result} result
 * @param {string} name  of the sound
 */
export function exportButtons(job, result, name) {
  const copyJson = () => copy(JSON.stringify(summary(job, result), null, 2), t("prediction.json_copied"));
  const copyLink = () => copy(new URL(`#job=${job.id}`, location.href).href, t("prediction.link_copied"));
  const ofJob = [
    button(t("prediction.save"), "save", () => save(job, name), { title: t("prediction.save.title") }),
    button(t("prediction.copy_link"), "link", copyLink),
  ];
  return [button(t("prediction.copy_json"), "copy", copyJson), ...(job.id ? ofJob : [])]; // the example has no job
}

/**
 * Job and result without the arrays.
 * @param {Job} job
 * @param {Result} result
 */
function summary(job, result) {
  const { model, predictions, duration, sample_rate, combined, window, windows } = result;
  const { verdict, known, level, warnings, detections } = result;
  /** @param {Prediction[]} list */
  const top = (list) => list.slice(0, CLASSES);
  return {
    ...job,
    result: {
      model,
      duration,
      sample_rate,
      combined,
      window,
      verdict,
      known,
      level,
      warnings,
      predictions: top(predictions),
      detections,
      windows: windows?.map((one) => ({ ...one, predictions: top(one.predictions) })),
    },
  };
}

/**
 * @param {string} text
 * @param {string} notice  shown when it is done
 */
async function copy(text, notice) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure page there is no clipboard; the older command copies a selection.
    const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(notice);
}

/**
 * Save the whole result as JSON.
 * @param {Job} job
 * @param {string} name  of the sound
 */
async function save({ id }, name) {
  const response = await fetch(`/v1/jobs/${id}/result`).catch(() => null);
  const body = response?.ok ? await response.blob().catch(() => null) : null;
  if (body) download(body, `${name.replace(/\.[^.]*$/, "")}.json`);
  else toast(response && !response.ok ? t("prediction.lost") : t("common.no_response"));
}
