// The panel of a sound without a result: why, and what can be done.

import { button, download, find, h } from "../view/dom.js";
import { filePicker } from "../input/file-picker.js";
import { headerOf } from "./header.js";
import { library } from "../library/library.js";
import { recordings } from "../input/recorder.js";
import { t } from "../words.js";

/** @import { ErrorInfo } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

/** @param {Sound} sound  cancelled, failed, refused or gone */
export function buildFailure(sound) {
  const { phase, error, file } = sound;
  const titles = { cancelled: t("list.cancelled"), gone: t("prediction.gone") };
  const heading =
    phase === "cancelled" || phase === "gone"
      ? titles[phase]
      : (error?.title ?? t("library.failed"));
  return h(
    "section",
    { class: `panel ${phase === "cancelled" ? "" : "error"}`, role: phase === "cancelled" ? null : "alert" },
    headerOf(sound),
    h("h2", { text: heading }),
    h("p", { class: "reason", text: reason(sound) }),
    h(
      "div",
      { class: "actions" },
      file && !isOfFile(error) ? button(t("common.retry"), "retry", () => library.resubmit(sound), { class: "primary" }) : null,
      file && isOfFile(error) ? filePicker(() => sound, true) : null,
      phase === "gone" && !file ? filePicker(() => sound) : null,
      file && recordings.has(file) ? button(t("prediction.save_recording"), "save", () => download(file, file.name)) : null,
      button(t("prediction.remove"), "close", () => library.remove(sound)),
    ),
  );
}

/**
 * Whether the server keeps anything of a cancelled sound is known a little later. The buttons stay the same.
 * @param {HTMLElement} root  with the panel of buildFailure, or another
 * @param {Sound} sound
 */
export function updateReason(root, sound) {
  const text = find(root, ".reason");
  if (text && text.textContent !== reason(sound)) text.textContent = reason(sound);
}

/**
 * Whether an error is about the file: another attempt would end in the same way.
 * @param {ErrorInfo | null} error
 */
const isOfFile = (error) => /^(audio_\w+|not_audio|payload_too_large|unsupported_media_type)$/.test(error?.code ?? "");

/**
 * Why there is no result.
 * @param {Sound} sound
 */
function reason({ phase, error }) {
  if (phase === "gone") return t("prediction.gone.text");
  return error?.detail ?? (phase === "cancelled" ? t("prediction.nothing_kept") : "");
}
