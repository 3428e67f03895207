// Edits the sound in its spectrogram: a region of time and frequency is muted, or everything else is. The edited sound is
// made in the browser, can be played, and is classified again at once; every edit can be undone.

import { announce, button, download, h } from "../view/dom.js";
import { clock, formatHertz } from "../view/format.js";
import { library } from "../library/library.js";
import { inSound, repetitionOf } from "../sound/axes.js";
import { cover } from "../sound/plot.js";
import { isDecodable } from "../sound/peaks.js";
import { answerText } from "../result/verdict.js";
import { viewport } from "../state/viewport.js";
import { makeFile, readAudio } from "./audio.js";
import { editRegion } from "./region.js";
import { t } from "../words.js";

/** @import { ModelCard, SoundRegion } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Action, Region } from "./region.js" */

/** @typedef {"zoom" | Action} Tool  what a drag over the spectrogram does */

const TOOLS = {
  zoom: { name: t("edit.zoom"), icon: "zoom-in", title: t("edit.zoom.title") },
  mute: { name: t("edit.mute"), icon: "erase", title: t("edit.mute.title") },
  keep: { name: t("edit.keep"), icon: "crop", title: t("edit.keep.title") },
};
const EDGE = 0.004; // share of the frequency axis: a region that is closer to its end has no limit there
const STEP = 1 / 40; // of the visible axis that an arrow key moves the box

/**
 * {element, brush, show(sound, card), onKey(event)}.
 * @param {object} options
 * @param {(text: string | null) => void} options.onHint  gets the explanation of the chosen tool; null: the usual one
 */
export function editor({ onHint }) {
  /** @type {Sound | null} */
  let sound = null;
  /** @type {ModelCard | null} */
  let card = null;
  /** @type {Tool} */
  let tool = "zoom";
  /** The box of the keyboard, or the region that is being applied. @type {SoundRegion | null} */
  let box = null;
  /** The sounds whose edits are being computed. @type {Sound[]} */
  const computing = [];
  /** The end of the last one: each begins with the sound that the one before has made. @type {Promise<void>} */
  let queue = Promise.resolve();
  /** Why the last edit failed in the browser. */
  let problem = "";

  const boxElement = h("div", { class: "selection brush", hidden: true });
  const tools = /** @type {Tool[]} */ (Object.keys(TOOLS)).map((name) => {
    const { name: label, icon: picture, title } = TOOLS[name];
    return button(label, picture, () => choose(name), { title, "data-tool": name, "aria-pressed": "false" });
  });
  const undo = button(t("edit.undo"), "undo", () => sound && library.stepEdits(sound, -1), { quiet: true, class: "quiet" });
  const redo = button(t("edit.redo"), "redo", () => sound && library.stepEdits(sound, 1), { quiet: true, class: "quiet" });
  const original = button(t("edit.original"), null, () => sound && library.showOriginal(sound, true));
  const edited = button(t("edit.edited"), null, () => sound && library.showOriginal(sound, false));
  const save = button("WAV", "save", saveEdited, { class: "quiet", title: t("edit.save") });
  const history = h("div", { class: "history" }, undo, redo);
  const versions = h("div", { class: "segments", role: "group", "aria-label": t("edit.version") }, original, edited);
  const state = h("p", { class: "edit-state muted", role: "status" });
  const element = h(
    "div",
    { class: "editor" },
    h("div", { class: "segments", role: "group", "aria-label": t("edit.drag") }, tools),
    history,
    versions,
    save,
    state,
  );

  library.on("change", (changed) => {
    if (changed.root === sound?.root) draw();
  });
  let { axis } = viewport;
  viewport.on("change", () => {
    if (axis !== viewport.axis) box = null; // its shares were of another axis
    ({ axis } = viewport);
  });

  /** @param {Tool} next */
  function choose(next) {
    tool = next;
    box = null;
    problem = "";
    draw();
    const named = TOOLS[tool].name;
    onHint(tool === "zoom" ? null : `${named}: ${t("edit.hint")}`);
    if (tool !== "zoom" && sound) read(sound).catch((error) => fail(error)); // so that the first edit is fast
  }

  /** The samples that the next edit begins with. @param {Sound} sound */
  function read({ root }) {
    const { file } = root.pendingVersion ?? root.edited;
    if (!file) throw new Error(t("edit.no_file"));
    return readAudio(file, root.job?.audio.sample_rate ?? root.result?.sample_rate);
  }

  /** @param {unknown} error */
  function fail(error) {
    problem = error instanceof Error ? error.message : String(error);
    draw();
  }

  /**
   * Edit the sound and classify it.
   * @param {SoundRegion} region
   */
  function apply(region) {
    if (!sound || !card || tool === "zoom" || reasonAgainst(sound)) return;
    const { root } = sound;
    const heard = root.result ? inSound(region, repetitionOf(root.result, card)) : region;
    const [action, hertz] = [tool, inHertz(heard)];
    box = region;
    computing.push(root);
    problem = "";
    draw();
    queue = queue.then(async () => {
      try {
        const { rate, channels } = await read(root);
        const changed = await Promise.all(channels.map((channel) => editRegion(channel, rate, hertz, action)));
        const name = `${root.name.replace(/\.[^.]*$/, "")} (${t("edit.name")}).wav`;
        if (library.sounds.includes(root)) library.edit(root, makeFile({ rate, channels: changed }, name));
      } catch (error) {
        fail(error);
      } finally {
        computing.shift();
        draw();
      }
    });
  }

  function saveEdited() {
    const file = sound?.root.edited.file;
    if (file) download(file, file.name);
  }

  /**
   * Move the box with the keyboard.
   * @param {KeyboardEvent} event
   * @returns {boolean} whether the key had a meaning
   */
  function onBoxKey({ key, shiftKey, altKey, ctrlKey, metaKey }) {
    if (altKey || ctrlKey || metaKey) return false;
    if (key === "Enter" && box) {
      apply(box);
      return true;
    }
    if (key === "Escape") {
      choose("zoom");
      return true;
    }
    /** @type {Record<string, [across: number, up: number]>} */
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const move = moves[key];
    if (!move || !card) return false;
    box = box ? movedBox(box, move, shiftKey) : middleBox();
    place();
    announce(regionText(inHertz(box)));
    return true;
  }

  function place() {
    boxElement.hidden = !box;
    boxElement.toggleAttribute("data-busy", Boolean(box && isBusy()));
    if (box) cover(boxElement, box, true);
  }

  const isBusy = () => Boolean(sound && (computing.includes(sound.root) || sound.root.pendingVersion));

  let wasBusy = false;
  function draw() {
    boxElement.parentElement?.toggleAttribute("data-brush", tool !== "zoom"); // a finger does not scroll then
    const busy = isBusy();
    if (wasBusy && !busy) box = null; // applied
    wasBusy = busy;
    place();
    const against = sound ? reasonAgainst(sound) : "";
    for (const one of tools) {
      const name = one.dataset.tool;
      one.setAttribute("aria-pressed", String(name === tool));
      if (one instanceof HTMLButtonElement) one.disabled = name !== "zoom" && against !== "";
    }
    if (!sound) return;
    const { root } = sound;
    const { edits, versions: all, showsOriginal } = root;
    const any = all.length > 0;
    history.hidden = versions.hidden = !any;
    save.hidden = edits === 0;
    undo.disabled = edits === 0 && !root.pendingVersion;
    redo.disabled = edits === all.length || Boolean(root.pendingVersion);
    edited.disabled = edits === 0;
    original.setAttribute("aria-pressed", String(showsOriginal || edits === 0));
    edited.setAttribute("aria-pressed", String(!showsOriginal && edits > 0));
    const text = stateText(root, against);
    if (state.textContent !== text) state.textContent = text;
    state.classList.toggle("problem", Boolean(problem || root.editError));
  }

  /**
   * @param {Sound} root
   * @param {string} against  why it cannot be edited
   */
  function stateText(root, against) {
    if (problem) return problem;
    const { editError, pendingVersion: pending, edits, showsOriginal } = root;
    if (editError) {
      const why = editError.detail ?? editError.title ?? "";
      return t("edit.failed", { why });
    }
    if (pending?.note) return t("edit.note", { note: pending.note });
    if (pending?.delayed) return t("edit.delayed");
    if (isBusy()) return t("edit.busy");
    if (!edits) return against || (tool === "zoom" ? t("edit.offer") : "");
    if (showsOriginal) return t("edit.is_original");
    return t("edit.edits", { count: edits, answer: root.result ? answerText(root.result) : t("edit.unclassified") });
  }

  return {
    element,
    /** Takes the drags and keys of the spectrogram while a tool is chosen. */
    brush: {
      element: boxElement,
      isActive: () => tool !== "zoom",
      onRegion: apply,
      onKey: onBoxKey,
      draw: place,
    },
    /**
     * @param {Sound} next
     * @param {ModelCard | null} nextCard
     */
    show(next, nextCard) {
      if (next.root !== sound?.root) {
        box = null;
        problem = "";
      }
      [sound, card] = [next, nextCard];
      if (tool !== "zoom" && reasonAgainst(next)) choose("zoom");
      draw();
    },
    /**
     * Ctrl + Z and Ctrl + Y within the sound panel.
     * @param {KeyboardEvent} event
     */
    onKey(event) {
      const { ctrlKey, metaKey, shiftKey, altKey } = event;
      const key = event.key.toLowerCase();
      if (!sound?.root.versions.length || !(ctrlKey || metaKey) || altKey || (key !== "z" && key !== "y")) return;
      event.preventDefault();
      library.stepEdits(sound, key === "y" || shiftKey ? 1 : -1);
    },
  };
}


/**
 * Why a sound cannot be edited; empty: it can.
 * @param {Sound} sound
 */
function reasonAgainst({ root }) {
  if (!root.result) return t("edit.later");
  if (!root.file) return t("edit.choose");
  if (!root.result.spectrogram) return t("edit.no_spectrogram");
  const channels = root.job?.audio.channels ?? 1;
  return isDecodable(root.result.duration, channels) ? "" : t("edit.too_long");
}

/**
 * @param {SoundRegion} region
 * @returns {Region}
 */
function inHertz({ start, end, low, high }) {
  return {
    start: start <= 0 ? -Infinity : start,
    end,
    low: low < EDGE ? 0 : viewport.axis.frequencyAt(low),
    high: high > 1 - EDGE ? Infinity : viewport.axis.frequencyAt(high),
  };
}

/** @param {Region} region */
function regionText({ start, end, low, high }) {
  const highest = high === Infinity ? t("edit.highest") : formatHertz(high);
  return `${t("common.span", { start: clock(Math.max(start, 0), 2), end: clock(end, 2) })}, ${t("common.span", { start: formatHertz(low), end: highest })}`;
}

/** Where the box begins: the middle of what is visible. @returns {SoundRegion} */
function middleBox() {
  const { start, end, low, high } = viewport;
  /** @type {(from: number, to: number) => [number, number]} */
  const middle = (from, to) => [from + 0.375 * (to - from), from + 0.625 * (to - from)];
  const [[left, right], [bottom, top]] = [middle(start, end), middle(low, high)];
  return { start: left, end: right, low: bottom, high: top };
}

/**
 * @param {SoundRegion} box
 * @param {[across: number, up: number]} move  in steps
 * @param {boolean} resize  move its right and its upper edge alone
 * @returns {SoundRegion}
 */
function movedBox(box, [across, up], resize) {
  const { start, end, low, high } = viewport;
  /** @type {(from: number, to: number, steps: number, least: number, most: number) => [number, number]} */
  const moved = (from, to, steps, least, most) => {
    const step = STEP * (most - least);
    if (resize) return [from, Math.min(Math.max(to + steps * step, from + step), most)];
    const by = Math.min(Math.max(steps * step, least - from), most - to);
    return [from + by, to + by];
  };
  const [left, right] = moved(box.start, box.end, across, start, end);
  const [bottom, top] = moved(box.low, box.high, up, low, high);
  return { start: left, end: right, low: bottom, high: top };
}
