// How the spectrogram is coloured, and what the colours mean.

import { h } from "../dom.js";
import { className, clock } from "../format.js";
import { legend, NAMES, ready } from "../paint/painter.js";
import { settings } from "../settings.js";
import { camTable } from "./spectrogram.js";

/** {element, show(result, spectrum, cam)}. */
export function bar() {
  const colours = h(
    "select",
    { "aria-label": "Colours of the spectrogram", on: { change: () => settings.set("soundColours", colours.value) } },
    NAMES.map((name) => h("option", { value: name, text: name })),
  );
  const range = h("input", {
    type: "range",
    min: "20",
    max: "100",
    step: "5",
    "aria-label": "Range of the spectrogram",
    on: { input: () => settings.set("range", Number(range.value)) },
  });
  const [low, high] = [h("span", { class: "number" }), h("span", { class: "number", text: "0 dB" })];
  const strip = (width, label) => h("canvas", { class: "legend", width, height: 20, role: "img", "aria-label": label });
  const scale = strip(240, "Colours from soft to loud");
  const toggle = h("input", { type: "checkbox", on: { change: () => settings.set("cam", toggle.checked) } });
  const camScale = strip(120, "Opacity from not at all to most");
  const camWords = h("span", { class: "reason muted" });
  const [little, most] = ["little", "most"].map((text) => h("span", { text }));
  const camLegend = h("span", { class: "cam-legend muted" }, little, camScale, most);
  const element = h(
    "div",
    { class: "colouring" },
    h("label", {}, h("span", { class: "muted", text: "Colours" }), colours),
    h("label", {}, h("span", { class: "muted", text: "Range" }), range),
    h("span", { class: "scale", title: "dB below the loudest cell" }, low, scale, high),
    h("label", { class: "check" }, toggle, h("span", { text: "What spoke for it" })),
    camLegend,
    camWords,
  );

  let result = null;
  let cam = null;
  const draw = () => {
    const name = settings.get("soundColours");
    colours.value = name;
    range.value = String(settings.get("range"));
    range.setAttribute("aria-valuetext", `${settings.get("range")} dB below the loudest`);
    low.textContent = `−${settings.get("range")} dB`;
    toggle.checked = settings.get("cam") && cam !== null;
    camLegend.hidden = !toggle.checked;
    camWords.hidden = !result || (cam !== null && !toggle.checked);
    legend(scale, name);
    legend(camScale, camTable(name));
  };
  settings.watch(["soundColours", "range", "cam"], draw);
  ready.then(draw);

  return {
    element,
    show(next, spectrum, itsCam) {
      [result, cam] = [next, itsCam];
      colours.disabled = range.disabled = !spectrum;
      toggle.disabled = !cam;
      const first = result ? className(result.predictions[0].class) : "";
      toggle.parentElement.title = cam ? `Which part of the sound spoke for ${first} (Grad-CAM of the last stage)` : "";
      const window = result?.windows?.length > 1 ? result.windows[result.window] : null;
      camWords.textContent = !cam
        ? "This result came without it."
        : `for ${first}${window ? `, in the window from ${clock(window.start)} to ${clock(window.end)}` : ""}`;
      draw();
    },
  };
}
