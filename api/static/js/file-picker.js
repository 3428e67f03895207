// Chooses the sound file of a reopened result: the server does not keep sounds.

import { button, h, toast } from "./dom.js";
import { formatBytes } from "./format.js";
import { library } from "./library.js";
import { acceptedTypes } from "./upload.js";

/** @import { Sound } from "./library.js" */

/**
 * A button that opens a file dialog.
 * @param {() => Sound | null} currentSound  the sound that a chosen file is attached to
 */
export function filePicker(currentSound) {
  const input = h("input", {
    type: "file",
    accept: acceptedTypes(),
    class: "visually-hidden",
    tabindex: -1,
    "aria-label": "The file of this result",
  });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.value = "";
    if (!file) return;
    const sound = currentSound();
    if (!sound?.job) return library.add([file]); // there is no result that it could belong to
    if (library.attach(sound, file)) return;
    toast(`That is another file: the file of this result has ${formatBytes(sound.job.audio.bytes)}`);
  });
  return h(
    "span",
    { class: "file-picker" },
    input,
    button("Choose the file", "file", () => {
      input.accept = acceptedTypes(); // the limits may have come since
      input.click();
    }),
  );
}
