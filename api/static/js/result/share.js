// "Share with sound": the link of a job whose sound the server keeps for a while. The sound is submitted once more for it.

import { button, h, present, toast } from "../view/dom.js";
import { formatDuration } from "../view/format.js";
import { library } from "../library/library.js";
import { serverLimits } from "../input/upload.js";
import { language, t } from "../words.js";

/** @import { Job, Limits } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

/** Null until the server has sent them. @type {Limits | null} */
let limits = null;
serverLimits.then((found) => (limits = found));

/** What each place shows. @type {WeakMap<HTMLElement, unknown[]>} */
const shown = new WeakMap();

/**
 * Show whether the link of a result carries the sound, and how to get one that does; nothing where the server keeps no sounds.
 * @param {HTMLElement} place
 * @param {Sound} sound
 * @param {Job} job
 */
export function showShare(place, sound, job) {
  if (!limits) return void serverLimits.then(() => showShare(place, sound, job));
  const state = [sound.share, sound.file, job];
  if (shown.get(place)?.every((value, i) => value === state[i])) return;
  shown.set(place, state);
  const hadFocus = place.contains(document.activeElement);
  place.replaceChildren(...present(contentOf(sound, job, limits)));
  const first = place.querySelector("input, button");
  if (hadFocus && first instanceof HTMLElement) first.focus({ preventScroll: true });
}

/**
 * @param {Sound} sound
 * @param {Job} job
 * @param {Limits} limits
 */
function contentOf(sound, job, { share_sounds: allowed, result_ttl: kept }) {
  const { share, file } = sound;
  if (job.links?.audio) {
    const until = Date.parse(job.finished_at ?? "") + 1_000 * kept;
    return [hint(t("share.carried", { time: moment(until) }))];
  }
  if (!allowed || !file || !job.id) return [];
  if (share?.id && share.until > Date.now()) return [link(share.id), stopButton(sound), hint(t("share.until", { time: moment(share.until) }))];
  const sending = share?.sending ?? false;
  const start = button(t("share.button"), "link", () => start.ariaBusy === "true" || begin(sound, kept));
  start.ariaBusy = String(sending);
  const text = sending ? t("share.sending") : t("share.hint", { kept: formatDuration(kept) });
  return [start, hint(text), share?.error ? h("p", { class: "problem", role: "alert", text: share.error }) : null];
}

/** @param {string} text */
const hint = (text) => h("p", { class: "hint muted", role: "status", text });

/**
 * @param {Sound} sound
 * @param {number} kept  seconds
 */
async function begin(sound, kept) {
  await library.share(sound, kept);
  // Some browsers allow this only shortly after the click; the link is on the page in any case.
  if (sound.share?.id) navigator.clipboard?.writeText(linkOf(sound.share.id)).then(() => toast(t("prediction.link_copied")), () => {});
}

/** @param {string} id  of the job */
const linkOf = (id) => new URL(`#job=${id}`, location.href).href;

/** A field with the link, and the button that copies it. @param {string} id */
function link(id) {
  const field = h("input", { type: "text", readonly: true, value: linkOf(id), "aria-label": t("share.link") });
  field.addEventListener("focus", () => field.select());
  const copy = button(t("prediction.copy_link"), "copy", async () => {
    field.select();
    // Without a secure page there is no clipboard; the older command copies the selection.
    const written = navigator.clipboard?.writeText(field.value) ?? Promise.reject();
    const copied = await written.then(
      () => true,
      () => document.execCommand("copy"),
    );
    if (copied) toast(t("prediction.link_copied"));
  });
  return h("div", { class: "link" }, field, copy);
}

/** @param {Sound} sound */
const stopButton = (sound) =>
  button(t("share.stop"), "stop", async () => {
    const stopped = await library.stopSharing(sound);
    toast(stopped ? t("share.stopped") : t("common.no_response"));
  });

/** A time of today, or with its date. @param {number} time  milliseconds since 1970 */
function moment(time) {
  const date = new Date(time);
  const isToday = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(language, { ...(isToday ? {} : { dateStyle: "medium" }), timeStyle: "short" });
}
