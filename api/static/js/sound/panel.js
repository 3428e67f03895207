// The sound: player, waveform, spectrogram and timeline, all of one time and one region on show.

import { button, h } from "../dom.js";
import { className } from "../format.js";
import { playhead } from "../playhead.js";
import { ready } from "../paint/painter.js";
import { settings } from "../settings.js";
import { viewport } from "../viewport.js";
import { bar } from "./bar.js";
import { onceAFrame } from "./ink.js";
import { minimap } from "./minimap.js";
import { decodable, fromFile, fromWaveform } from "./peaks.js";
import { savePicture } from "./picture.js";
import { player } from "./player.js";
import { extent, placed } from "./scale.js";
import { spectrogram } from "./spectrogram.js";
import { timeline } from "./timeline.js";
import { waveform } from "./waveform.js";

const CHANNELS = 8; // where the server has not said yet: the most that it takes
const HINT = {
  mouse:
    "Click to move there, drag to zoom into a region, double-click to see all. Ctrl + wheel zooms time, " +
    "Shift + wheel frequency; Shift + drag or Alt + arrows pan. Space plays, arrows seek.",
  touch:
    "Tap to move there, drag sideways to zoom into a region, use two fingers to zoom and pan, double-tap to see all.",
};

export function mountSound(root) {
  let sound = null;
  let card = null;
  let peaks = null;
  let decoding = null; // AbortController of the file being decoded
  let decoded = null; // file that `peaks` are of
  let spectrum = null;
  let cam = null; // {matrix, start, seconds}
  let told = null; // what the panel was last drawn for

  const touch = matchMedia("(pointer: coarse)").matches;
  const hint = h("p", { id: "sound-hint", class: "hint muted", text: touch ? HINT.touch : HINT.mouse });
  const sounding = player(() => settle());
  const wave = waveform("sound-hint");
  const picture = spectrogram("sound-hint");
  picture.element.id = "sound-spectrogram";
  const strip = minimap("sound-spectrogram");
  const windows = timeline();
  const settingsBar = bar();
  const middle = () => (viewport.start + viewport.end) / 2;
  const closer = button("Zoom in", "zoom-in", () => viewport.zoom(0.5, inside()), { quiet: true, class: "quiet" });
  const wider = button("Zoom out", "zoom-out", () => viewport.zoom(2, middle()), { quiet: true, class: "quiet" });
  const all = button("Show all", "fit", () => viewport.reset(), { quiet: true, class: "quiet" });
  const save = button("PNG", "save", () => savePicture(sound, card, spectrum, settings.get("cam") ? cam : null), {
    class: "quiet",
    title: "Save the spectrogram as a picture",
  });
  const panel = h(
    "section",
    { class: "panel sound", "aria-label": "Sound" },
    h("header", {}, h("h2", { text: "Sound" }), h("div", { class: "tools" }, closer, wider, all, save)),
    sounding.element,
    windows.element,
    wave.element,
    picture.element,
    strip.element,
    settingsBar.element,
    hint,
  );
  root.replaceChildren(panel);
  panel.addEventListener("keydown", (event) => {
    if (event.key !== " " || event.target.closest("button, select, input, a")) return;
    event.preventDefault();
    sounding.toggle();
  });

  /** Zooming in goes to the cursor where it can be seen. */
  const inside = () => (playhead.time > viewport.start && playhead.time < viewport.end ? playhead.time : middle());

  const redraw = onceAFrame(() => {
    wave.draw(peaks, playhead.duration || sound?.result?.duration || 0);
    windows.draw();
    picture.draw(spectrum, settings.get("cam") ? cam : null, card);
    closer.disabled = viewport.end - viewport.start <= 0.051;
    wider.disabled = all.disabled = viewport.whole;
  });
  const redrawAll = onceAFrame(() => strip.draw(spectrum, peaks));
  const everything = () => {
    redraw();
    redrawAll();
  };
  viewport.addEventListener("change", redraw);
  settings.addEventListener(
    "change",
    ({ detail }) => ["soundColours", "range", "cam"].includes(detail) && everything(),
  );
  new ResizeObserver(everything).observe(panel);
  new MutationObserver(everything).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  ready.then(everything);

  /** The length of the time axis may have become known: everything is on show again. */
  function settle(fresh = false) {
    const length = extent({ result: sound.result, card, duration: sounding.duration() });
    if (!fresh && Math.abs(length - viewport.duration) < 1e-6) return;
    viewport.reset(length || 1);
    everything();
    decode();
  }

  /** The waveform of the file, where the browser can read it and has room; until then, and else, that of the result. */
  async function decode() {
    const { file } = sound;
    const channels = sound.job?.audio.channels ?? CHANNELS;
    if (!file || decoded === file || !sounding.duration() || !decodable(sounding.duration(), channels)) return;
    decoding?.abort();
    decoding = new AbortController();
    decoded = file;
    const { signal } = decoding;
    const found = await fromFile(file, signal);
    if (signal.aborted || !found) return;
    peaks = found;
    everything();
  }

  function show(next, nextCard) {
    const fresh = next !== sound;
    const same = ["result", "url", "phase", "note"].every((key) => told?.[key] === next[key]);
    if (!fresh && same && card === nextCard) {
      if (next.phase === "queued" || next.phase === "uploading") picture.say(waiting(next));
      return;
    }
    const renewed = fresh || told.result !== next.result || card !== nextCard;
    told = { result: next.result, url: next.url, phase: next.phase, note: next.note };
    if (fresh) {
      decoding?.abort();
      peaks = decoded = null;
    }
    [sound, card] = [next, nextCard];
    const { result } = sound;
    sounding.load(sound, result?.duration ?? sound.job?.audio?.duration ?? 0);
    if (renewed) {
      spectrum = placed(result, card);
      const start = result?.windows?.[result.window]?.start ?? 0;
      cam = result?.cam && card ? { matrix: result.cam, start, seconds: card.window_seconds } : null;
      settle(fresh);
      windows.show(result);
      settingsBar.show(result, spectrum, cam);
    }
    if (!peaks && result?.waveform) peaks = fromWaveform(result.waveform, result.duration);
    const heard = result ? `, heard as ${className(result.predictions[0].class)}` : "";
    picture.say(spectrum ? "" : waiting(sound));
    if (spectrum) picture.name(`Log-mel spectrogram of ${sound.name}${heard}`);
    save.disabled = !spectrum;
    panel.classList.toggle("pending", !spectrum);
    decode();
    everything();
  }

  return { show };
}

/** What the place of the spectrogram says while there is none. */
function waiting(sound) {
  const position = sound.job?.queue_position;
  return (
    {
      waiting: sound.note || "The spectrogram comes with the result. This sound waits for its turn.",
      uploading: `The spectrogram comes with the result. The sound is on its way, ${Math.round(100 * sound.uploaded)} %.`,
      queued: `The spectrogram comes with the result. The sound is in the queue${position ? `, number ${position}` : ""}.`,
      running: "The spectrogram comes with the result. The network is listening.",
      succeeded: "This result was asked for without its spectrogram.",
      failed: "There is no spectrogram: this sound could not be classified.",
      cancelled: "There is no spectrogram: this was cancelled.",
      refused: "There is no spectrogram: this sound was not accepted.",
      gone: "There is no spectrogram: the server no longer has this result.",
    }[sound.phase] ?? ""
  );
}
