// Chooses a sound file: that of a reopened result, since the server does not keep sounds, or another one than a refused file.

import { button, h, toast } from "../view/dom.js";
import { formatBytes } from "../view/format.js";
import { library } from "../library/library.js";
import { acceptedTypes } from "./upload.js";
import { t } from "../words.js";

/** @import { Sound } from "../library/sound.js" */

/**
 * A button that opens a file dialog.
 * @param {() => Sound | null} currentSound  the sound that a chosen file is attached to; one without a result is replaced
 * @param {boolean} [another]  whether any other file may be chosen
 */
export function filePicker(currentSound, another = false) {
  const input = h("input", {
    type: "file",
    accept: acceptedTypes(),
    class: "visually-hidden",
    tabindex: -1,
    "aria-label": another ? t("picker.another_file") : t("picker.file"),
  });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = "";
    if (!file) return;
    const sound = currentSound();
    if (!sound?.job || (sound.ended && !sound.result)) {
      library.add([file]); // there is no result that it could belong to
      if (sound?.ended && sound.file) library.remove(sound);
      return;
    }
    if (library.attach(sound, file)) return;
    toast(t("picker.wrong", { size: formatBytes(sound.job.audio.bytes) }));
  });
  return h(
    "span",
    { class: "file-picker" },
    input,
    button(another ? t("picker.another") : t("picker.choose"), "file", () => {
      input.accept = acceptedTypes(); // the limits may have come since
      input.click();
    }),
  );
}
