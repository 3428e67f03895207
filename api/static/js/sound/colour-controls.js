// Controls and legends of the spectrogram: its frequency axis, its colours, and the class activation over it.

import { button, h } from "../view/dom.js";
import { className, clock, formatDbfs } from "../view/format.js";
import { drawLegend, NAMES, ready } from "../paint/painter.js";
import { settings } from "../state/settings.js";
import { SCALE_NAMES, scaleName } from "./frequency-axis.js";
import { camColours } from "./spectrogram.js";
import { t } from "../words.js";

/** @import { PlacedCam, PlacedSpectrogram, Result } from "../server/types.js" */

/**
 * {element, show(result, spectrogram, cam), showOcclusion(state)}.
 * @param {() => void} onOcclusion  called when the occlusion map is switched on or off
 */
export function colourControls(onOcclusion) {
  const colours = h(
    "select",
    { "aria-label": t("colours.label"), on: { change: () => settings.set("soundColours", colours.value) } },
    NAMES.map((name) => h("option", { value: name, text: name })),
  );
  /** @type {(key: "range" | "loudest", label: string, min: number, max: number) => HTMLInputElement} */
  const slider = (key, label, min, max) => {
    const input = h("input", {
      type: "range",
      min: String(min),
      max: String(max),
      step: "5",
      "aria-label": label,
      on: { input: () => settings.set(key, Number(input.value)) },
    });
    return input;
  };
  const scale = h(
    "select",
    { "aria-label": t("axis.label"), on: { change: () => settings.set("scale", scale.value) } },
    SCALE_NAMES.map((name) => h("option", { value: name, text: t(/** @type {"axis.mel"} */ (`axis.${name}`)) })),
  );
  const fine = h("input", { type: "checkbox", on: { change: () => settings.set("fine", fine.checked) } });
  const fineLabel = h("label", { class: "check", title: t("fine.title") }, fine, h("span", { text: t("fine.label") }));
  const range = slider("range", t("colours.range.label"), 20, 100);
  const loudest = slider("loudest", t("colours.loudest.label"), 0, 60);
  const [low, high] = [h("span", { class: "number" }), h("span", { class: "number" })];
  /** @type {(width: number, label: string) => HTMLCanvasElement} */
  const strip = (width, label) => h("canvas", { class: "legend", width, height: 20, role: "img", "aria-label": label });
  const legend = strip(240, t("colours.legend"));
  const toggle = h("input", { type: "checkbox", on: { change: () => settings.set("cam", toggle.checked) } });
  const toggleLabel = h("label", { class: "check" }, toggle, h("span", { text: t("colours.cam") }));
  const occlusion = button(t("occlusion.button"), "search", onOcclusion, {
    class: "quiet",
    "aria-pressed": "false",
    title: t("occlusion.title"),
  });
  const occlusionText = h("span", { class: "occlusion muted", role: "status" });
  const camStrip = strip(120, t("colours.cam.legend"));
  const camNote = h("span", { class: "cam-note muted" });
  const camLegend = h(
    "span",
    { class: "cam-legend muted" },
    h("span", { text: t("colours.low") }),
    camStrip,
    h("span", { text: t("colours.high") }),
  );
  const element = h(
    "div",
    { class: "colour-controls" },
    h("label", {}, h("span", { class: "muted", text: t("axis.short") }), scale),
    fineLabel,
    h("label", {}, h("span", { class: "muted", text: t("colours.colours") }), colours),
    h("label", {}, h("span", { class: "muted", text: t("colours.range") }), range),
    h("label", {}, h("span", { class: "muted", text: t("colours.brighter") }), loudest),
    h("span", { class: "scale", title: t("colours.full_scale") }, low, legend, high),
    toggleLabel,
    camLegend,
    camNote,
    occlusion,
    occlusionText,
  );

  /** @type {Result | null} */
  let result = null;
  /** @type {PlacedCam | null} */
  let cam = null;
  let covered = false; // the occlusion map is shown in its place
  const draw = () => {
    const name = settings.get("soundColours");
    colours.value = name;
    range.value = String(settings.get("range"));
    loudest.value = String(settings.get("loudest"));
    low.textContent = formatDbfs(-settings.get("range"), 0);
    high.textContent = formatDbfs(-settings.get("loudest"), 0);
    range.setAttribute("aria-valuetext", t("colours.from", { level: low.textContent ?? "" }));
    loudest.setAttribute("aria-valuetext", t("colours.to", { level: high.textContent ?? "" }));
    scale.value = scaleName();
    fine.checked = settings.get("fine");
    toggle.checked = settings.get("cam") && cam !== null;
    toggle.disabled = !cam || covered;
    camLegend.hidden = !toggle.checked || covered;
    camNote.hidden = !result || covered || (cam !== null && !toggle.checked);
    drawLegend(legend, name);
    drawLegend(camStrip, camColours(name));
  };
  settings.watch(["soundColours", "range", "loudest", "cam", "scale", "fine"], draw);
  ready.then(draw);

  return {
    element,
    /**
     * @param {"off" | "busy" | "on"} state  of the occlusion map
     * @param {string} text
     */
    showOcclusion(state, text) {
      occlusion.setAttribute("aria-pressed", String(state !== "off"));
      occlusion.ariaBusy = String(state === "busy");
      occlusion.disabled = !cam;
      occlusionText.textContent = text;
      covered = state === "on";
      draw();
    },
    /** @type {(nextResult: Result | null, spectrogram: PlacedSpectrogram | null, nextCam: PlacedCam | null) => void} */
    show(nextResult, spectrogram, nextCam) {
      [result, cam] = [nextResult, nextCam];
      scale.disabled = fine.disabled = colours.disabled = range.disabled = loudest.disabled = !spectrogram;
      const name = result ? className(result.camClass) : "";
      toggleLabel.title = cam
        ? t("colours.cam.title", { name })
        : "";
      const windows = result?.windows ?? [];
      const window = result && windows.length > 1 ? windows[result.window] : null;
      camNote.textContent = !cam
        ? t("colours.no_cam")
        : window
          ? t("colours.for_window", { name, start: clock(window.start), end: clock(window.end) })
          : t("colours.for", { name });
      draw();
    },
  };
}
