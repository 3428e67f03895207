// The list of sounds: each with its progress, its result, and buttons to cancel or remove it.

import { button, byId, find, h } from "../view/dom.js";
import { percent } from "../view/format.js";
import { library } from "./library.js";
import { answerText } from "../result/verdict.js";
import { language, t } from "../words.js";

/** @import { Sound } from "./sound.js" */
/** @import { Job } from "../server/types.js" */

/**
 * Show the sounds of the library.
 * @param {HTMLElement} root
 */
export function mountSoundList(root) {
  const list = h("ul", { class: "sounds" });
  root.replaceChildren(list);
  /** @type {Map<Sound, ReturnType<typeof buildItem>>} */
  const items = new Map();

  /** @param {Sound} sound */
  const draw = (sound) => {
    const item = items.get(sound);
    if (!item) return;
    const { phase } = sound;
    item.root.dataset.phase = phase;
    item.root.toggleAttribute("data-selected", sound === library.selected);
    item.select.setAttribute("aria-current", String(sound === library.selected));
    item.name.textContent = sound.name;
    item.name.title = sound.name;
    item.state.textContent = stateText(sound) + modelText(sound);
    item.progress.hidden = sound.ended || phase === "waiting";
    showProgress(item.progress, sound);
    // Not to the button that takes its place: a visitor who meant to cancel must not remove.
    if (sound.ended && item.cancel === document.activeElement) item.select.focus();
    item.cancel.hidden = sound.ended;
    item.remove.hidden = !sound.ended;
  };

  /** @param {Sound} sound */
  const add = (sound) => {
    const item = buildItem(sound);
    items.set(sound, item);
    return item;
  };

  library.on("list", () => {
    let focused = -1; // index of a removed item that had the focus
    const { activeElement } = document;
    const hadFocus = list.contains(activeElement) || byId("result").contains(activeElement);
    for (const [sound, { root: item }] of items) {
      if (library.sounds.includes(sound)) continue;
      if (item.contains(document.activeElement)) focused = [...list.children].indexOf(item);
      item.remove();
      items.delete(sound);
    }
    library.sounds.forEach((sound, at) => {
      const { root: item } = items.get(sound) ?? add(sound);
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
      draw(sound);
    });
    const next = library.sounds[focused] ?? library.sounds.at(-1);
    if (focused >= 0 && next) items.get(next)?.select.focus();
    else if (hadFocus && !next) find(byId("upload"), "button")?.focus(); // the result is hidden now
  });
  library.on("change", (sound) => {
    draw(sound);
    if (sound.ended) library.sounds.forEach(draw); // with a second model, each names its own
  });
  library.on("select", () => library.sounds.forEach(draw));
}

/** @param {Sound} sound */
function buildItem(sound) {
  const name = h("span", { class: "name" });
  const state = h("span", { class: "state number" });
  const progress = h("progress", { max: 1, "aria-label": t("common.progress") });
  const props = { quiet: true, class: "quiet" };
  const cancel = button(t("common.cancel"), "stop", () => library.cancel(sound), props);
  const remove = button(t("list.remove"), "close", () => library.remove(sound), props);
  const select = h(
    "button",
    { type: "button", class: "select", on: { click: () => library.select(sound) } },
    name,
    state,
  );
  const root = h("li", {}, select, h("div", { class: "actions" }, cancel, remove), progress);
  return { root, name, state, progress, cancel, remove, select };
}

/**
 * The state of a sound in a few words.
 * @param {Sound} sound
 */
export function stateText(sound) {
  const { phase, job, result } = sound;
  if (!sound.connected && !sound.ended) return t("list.no_server");
  switch (phase) {
    case "waiting":
      return sound.note || t("list.waiting");
    case "uploading":
      return sound.uploaded < 1 ? t("list.uploading", { share: percent(sound.uploaded) }) : t("list.uploaded");
    case "queued":
      return (
        (job?.queue_position ? t("list.queued_at", { position: job.queue_position }) : t("list.queued")) +
        (sound.delayed ? t("list.delayed") : "")
      );
    case "running":
      return runningText(job?.progress ?? null);
    case "cancelled":
      return t("list.cancelled");
    case "gone":
      return t("list.gone");
    default:
      if (!result) return sound.error?.title ?? t("list.failed");
      if (sound.example && !sound.edits) return t("example.state", { answer: answerText(result) });
      return answerText(result) + (sound.edited.result && sound.edits ? t("list.edited", { answer: answerText(sound.edited.result) }) : "");
  }
}

/**
 * The model of a result, where there are results of several.
 * @param {Sound} sound
 */
function modelText({ result }) {
  const models = new Set(library.sounds.flatMap((sound) => sound.result?.model ?? []));
  return result && models.size > 1 ? ` (${result.model})` : "";
}

/** @param {Job["progress"]} progress */
function runningText(progress) {
  if (!progress) return t("list.running");
  const { done, of } = progress;
  const values = { done: done.toLocaleString(language), of: Math.max(of ?? 0, done).toLocaleString(language) };
  return t(of === null ? "list.windows" : "list.windows_of", values);
}

/**
 * Set a progress bar: the uploaded share of the file, then the classified share of a long sound; otherwise it has no value.
 * @param {HTMLProgressElement} bar
 * @param {Sound} sound
 */
export function showProgress(bar, { phase, uploaded, job }) {
  const { done, of } = (phase === "running" && job?.progress) || { done: 0, of: null };
  if (phase === "uploading") bar.value = uploaded;
  else if (of) bar.value = Math.min(done / of, 1);
  else bar.removeAttribute("value");
}
