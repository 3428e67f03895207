// The sound panel: player, waveform, spectrogram and timeline, which share the time axis and the visible region.

import { button, closest, h } from "../view/dom.js";
import { className, formatDuration, percent } from "../view/format.js";
import { lookInto } from "../library/look.js";
import { stateText } from "../library/sound-list.js";
import { ready } from "../paint/painter.js";
import { playhead } from "../state/playhead.js";
import { settings } from "../state/settings.js";
import { answerText } from "../result/verdict.js";
import { viewport } from "../state/viewport.js";
import { editor } from "../edit/editor.js";
import { canFall, measureOcclusion } from "../edit/occlusion.js";
import { axisLength, placeDetail, placeSpectrogram } from "./axes.js";
import { oncePerFrame } from "./canvas.js";
import { colourControls } from "./colour-controls.js";
import { exportSpectrogram } from "./export-png.js";
import { fineView, highestFrequency } from "./fine-view.js";
import { bandAxis, scaleName, soundAxis } from "./frequency-axis.js";
import { camFrontend } from "./front-ends.js";
import { minimap } from "./minimap.js";
import { decodePeaks, isDecodable, peaksOfWaveform } from "./peaks.js";
import { player } from "./player.js";
import { spectrogramPlot } from "./spectrogram.js";
import { timeline } from "./timeline.js";
import { waveformPlot } from "./waveform.js";
import { t } from "../words.js";

/** @import { ModelCard, PlacedCam, PlacedSpectrogram } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Occlusion } from "../edit/occlusion.js" */
/** @import { Peaks } from "./peaks.js" */

const MAX_CHANNELS = 8; // assumed where the server has not reported the channels: the most that it accepts

/** @param {HTMLElement} root */
export function mountSound(root) {
  /** @type {Sound | null} */
  let sound = null;
  /** @type {ModelCard | null} */
  let card = null;
  /** @type {Peaks | null} */
  let peaks = null;
  /** Aborts the decoding of the file. @type {AbortController | null} */
  let decoding = null;
  /** The file that was last decoded. @type {File | null} */
  let decodedFile = null;
  /** @type {PlacedSpectrogram | null} */
  let spectrogram = null;
  /** Of the window that is looked into. @type {PlacedSpectrogram | null} */
  let detail = null;
  /** @type {PlacedCam | null} */
  let cam = null;
  let wantsOcclusion = false; // its map instead of the class activation
  /** @type {Occlusion | null} */
  let occlusion = null; // of what is looked into
  /** What the panel was last drawn for. @type {Pick<Sound, "result" | "view" | "looking" | "url" | "phase" | "note"> | null} */
  let shown = null;

  const usualHint = t("sound.hint");
  const hint = h("p", { id: "sound-hint", class: "hint muted", text: usualHint });
  const averaged = h("p", { class: "hint muted", hidden: true });
  const audioPlayer = player(() => updateAxis());
  const waveform = waveformPlot("sound-hint");
  const editing = editor({ onHint: (text) => (hint.textContent = text ?? usualHint) });
  const spectrogramView = spectrogramPlot("sound-hint", editing.brush);
  spectrogramView.element.id = "sound-spectrogram";
  const fine = fineView(spectrogramView.stage, () => redraw(), () => updateFrequencies());
  const scrollBar = minimap("sound-spectrogram");
  const windows = timeline(lookIntoWindow);
  const controls = colourControls(toggleOcclusion);
  const middle = () => (viewport.start + viewport.end) / 2;
  /** Zooming in goes to the playhead where that is visible. */
  const zoomCentre = () => (playhead.time > viewport.start && playhead.time < viewport.end ? playhead.time : middle());
  const quiet = { quiet: true, class: "quiet" };
  const zoomIn = button(t("sound.zoom_in"), "zoom-in", () => viewport.zoom(0.5, zoomCentre()), quiet);
  const zoomOut = button(t("sound.zoom_out"), "zoom-out", () => viewport.zoom(2, middle()), quiet);
  const showAll = button(t("sound.show_all"), "fit", () => viewport.reset(), quiet);
  const save = button("PNG", "save", () => exportPng(), {
    class: "quiet",
    title: t("sound.png"),
  });
  const panel = h(
    "section",
    { class: "panel sound", "aria-label": t("sound.title") },
    h("header", {}, h("h2", { text: t("sound.title") }), h("div", { class: "tools" }, zoomIn, zoomOut, showAll, save)),
    audioPlayer.element,
    windows.element,
    waveform.element,
    editing.element,
    spectrogramView.element,
    scrollBar.element,
    controls.element,
    averaged,
    hint,
  );
  root.replaceChildren(panel);
  panel.addEventListener("keydown", (event) => {
    editing.onKey(event);
    if (event.key !== " " || closest(event, "button, select, input, a")) return;
    event.preventDefault();
    audioPlayer.toggle();
  });

  function exportPng() {
    if (!sound?.view || !card || !spectrogram) return;
    exportSpectrogram(sound.name, sound.view, card, [spectrogram, detail], fine.picture, visibleCam());
  }

  /** Without its file, a sound that was opened by its link is only played. @param {number} window */
  function lookIntoWindow(window) {
    const first = sound?.result?.windows?.[window]?.predictions[0];
    if (sound && first) lookInto(sound, window, first.class);
  }

  /** Over the spectrogram. @returns {PlacedCam | null} */
  function visibleCam() {
    if (wantsOcclusion && occlusion && cam) return { ...cam, matrix: occlusion.matrix };
    return settings.get("cam") ? cam : null;
  }

  function toggleOcclusion() {
    wantsOcclusion = !wantsOcclusion;
    updateOcclusion(true);
  }

  /**
   * Show the occlusion map of what is looked into where it is wanted, once it has been measured.
   * @param {boolean} measure  whether it is to be measured where it has not been
   */
  async function updateOcclusion(measure) {
    const view = sound?.view;
    const key = `${view?.window} ${view?.camClass}`;
    occlusion = null;
    if (!measure && !sound?.occlusions.has(key)) wantsOcclusion = false;
    if (!wantsOcclusion || !sound || !view || !card || !cam) {
      controls.showOcclusion("off", "");
      return redraw();
    }
    if (!canFall(view)) {
      wantsOcclusion = false;
      controls.showOcclusion("off", t("occlusion.low", { name: className(view.camClass) }));
      return redraw();
    }
    const { occlusions } = sound;
    const measured = occlusions.get(key) ?? measureOcclusion(sound, view);
    occlusions.set(key, measured);
    controls.showOcclusion("busy", t("occlusion.busy"));
    redraw();
    try {
      const found = await measured;
      if (sound?.view !== view || !wantsOcclusion) return;
      occlusion = found;
      controls.showOcclusion("on", occlusionText(found, className(view.camClass)));
    } catch (error) {
      occlusions.delete(key);
      if (sound?.view !== view || !wantsOcclusion) return;
      wantsOcclusion = false;
      controls.showOcclusion("off", error instanceof Error ? error.message : String(error));
    }
    redraw();
  }

  const redraw = oncePerFrame(() => {
    waveform.draw(peaks, playhead.duration || sound?.result?.duration || 0, Boolean(spectrogram?.repetition));
    windows.draw();
    spectrogramView.draw(spectrogram, detail, fine.picture, visibleCam());
    zoomIn.disabled = viewport.end - viewport.start <= 0.051;
    zoomOut.disabled = showAll.disabled = viewport.whole;
  });
  const redrawScrollBar = oncePerFrame(() => scrollBar.draw(spectrogram, peaks));
  const redrawAll = () => {
    redraw();
    redrawScrollBar();
  };
  viewport.on("change", redraw);
  settings.on("change", (key) => {
    if (["scale", "fine"].includes(key)) updateFrequencies();
    if (["soundColours", "range", "loudest", "cam", "scale", "fine"].includes(key)) redrawAll();
  });
  new ResizeObserver(redrawAll).observe(panel);
  new MutationObserver(redrawAll).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  ready.then(redrawAll);

  /**
   * Show all of the sound again where the length of the time axis has changed.
   * @param {boolean} [isNew]  another sound: in any case
   */
  function updateAxis(isNew = false) {
    const length = axisLength(sound?.result ?? null, card, audioPlayer.duration());
    if (!isNew && Math.abs(length - viewport.duration) < 1e-6) return;
    viewport.reset(length || 1);
    redrawAll();
    decode();
  }

  /** Set the frequency axis, and compute a finer picture where it shows more than the model's. */
  function updateFrequencies() {
    if (spectrogram) viewport.setAxis(soundAxis(scaleName(), spectrogram.axis, highestFrequency(sound)));
    fine.update(sound, spectrogram);
  }

  /** Take the waveform from the file, where the browser can decode it and has memory; until then, it is that of the result. */
  async function decode() {
    if (!sound?.file) return;
    const { file, job } = sound;
    const duration = audioPlayer.duration();
    if (decodedFile === file || !duration || !isDecodable(duration, job?.audio.channels ?? MAX_CHANNELS)) return;
    decoding?.abort();
    decoding = new AbortController();
    decodedFile = file;
    const { signal } = decoding;
    const found = await decodePeaks(file, signal);
    if (signal.aborted || !found) return;
    peaks = found;
    redrawAll();
  }

  /**
   * @param {Sound} next
   * @param {ModelCard | null} nextCard
   */
  function show(next, nextCard) {
    const gone = next.phase === "gone" && !next.file;
    root.hidden = gone || next.phase === "refused" || next.phase === "failed"; // there is nothing to show but the error
    const isNew = next.root !== sound?.root;
    const { result, view, looking, url, phase, note } = next;
    const sameView = shown?.view === view && shown.looking === looking;
    const same = sameView && shown?.result === result && shown.url === url && shown.phase === phase && shown.note === note;
    if (next === sound && same && card === nextCard) {
      if (!next.ended && !spectrogram) spectrogramView.showMessage(missingReason(next));
      return;
    }
    const changed = next !== sound || shown?.result !== result || card !== nextCard;
    shown = { result, view, looking, url, phase, note };
    if (isNew) {
      decoding?.abort();
      peaks = decodedFile = null;
    }
    [sound, card] = [next, nextCard];
    editing.show(sound, card);
    audioPlayer.load(sound, result?.duration ?? sound.job?.audio.duration ?? 0);
    if (changed) {
      spectrogram = placeSpectrogram(result, card);
      updateAxis(isNew);
      windows.show(result);
      averaged.hidden = !spectrogram || !result?.averaged;
      averaged.textContent = spectrogram ? t("sound.averaged", { duration: formatDuration(spectrogram.step) }) : "";
    }
    if (changed || !sameView) {
      const start = view?.windows?.[view.window]?.start ?? 0;
      cam = view?.cam && card ? { matrix: view.cam, start, seconds: card.window_seconds, axis: bandAxis(camFrontend(card)) } : null;
      detail = placeDetail(view, card);
      windows.mark(view?.window ?? -1, looking);
      controls.show(view, spectrogram, cam);
      updateOcclusion(false);
    }
    updateFrequencies();
    if (!peaks && result?.waveform) peaks = peaksOfWaveform(result.waveform, result.duration);
    spectrogramView.showMessage(spectrogram ? "" : missingReason(sound));
    if (spectrogram && result) {
      spectrogramView.setLabel(t("sound.spectrogram", { name: sound.name, answer: answerText(result) }));
    }
    save.disabled = !spectrogram;
    panel.classList.toggle("pending", !spectrogram);
    decode();
    redrawAll();
  }

  return { show };
}

/**
 * An occlusion map in a sentence.
 * @param {Occlusion} occlusion
 * @param {string} name  of the class
 */
function occlusionText({ confidence, without }, name) {
  const [from, to] = [percent(confidence, 1), percent(without, 1)];
  return confidence - without < 0.02
    ? t("occlusion.little", { name, from, to })
    : t("occlusion.falls", { name, from, to });
}

/**
 * Why there is no spectrogram.
 * @param {Sound} sound
 */
function missingReason(sound) {
  const { phase, note, result } = sound;
  if (phase === "waiting" && note) return note;
  if (!sound.ended) return `${t("sound.comes")} ${stateText(sound)}.`;
  switch (phase) {
    case "succeeded":
      return result?.spectrogram ? t("sound.no_model", { model: result.model }) : t("sound.none");
    case "cancelled":
      return t("sound.cancelled");
    default:
      return t("sound.gone");
  }
}
