// Gives a reopened result its sound back: the server keeps none.

import { button, h, toast } from "./dom.js";
import { bytes } from "./format.js";
import { library } from "./library.js";

/** A button for that; `current` tells the sound that it is about when a file has been chosen. */
export function chooser(current) {
  const input = h("input", {
    type: "file",
    accept: "audio/*,.aif,.aiff,.opus",
    class: "visually-hidden",
    tabindex: -1,
    "aria-label": "The file of this result",
  });
  input.addEventListener("change", () => {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    if (!current().job) return library.add([file]); // there is no result that it could be of
    if (library.attach(current(), file)) return;
    toast(`That is another file: this result is of one with ${bytes(current().job.audio.bytes)}`);
  });
  return h(
    "span",
    { class: "chooser" },
    input,
    button("Choose the file", "file", () => input.click()),
  );
}
