// The sounds on this page: which there are, which is selected, and the edited versions of each. Draws nothing.

import * as api from "../server/api.js";
import { Emitter } from "../state/emitter.js";
import { Jobs, sameParts } from "./jobs.js";
import { cancelJob, NEW_ATTEMPT, numberFrom, Sound } from "./sound.js";
import { overlapOf } from "../server/send-again.js";
import { t } from "../words.js";

/** @import { ErrorInfo } from "../server/types.js" */

const MAX_VERSIONS = 20; // of a sound: each keeps its file and its result

/**
 * Emits `list` (sounds were added or removed), `change` (of a sound) and `select`.
 * @extends {Emitter<{list: null, change: Sound, select: Sound | null}>}
 */
class Library extends Emitter {
  /** @type {Sound[]} */
  sounds = [];
  /** @type {Sound | null} */
  selected = null;
  #jobs = new Jobs({
    all: () => this.sounds.flatMap((one) => [one, ...one.versions]),
    set: (sound, changes) => this.#set(sound, changes),
    attach: (sound, file) => this.attach(sound, file),
  });

  /** What the panels show: the selected sound, or an edited version of it. */
  get shown() {
    return this.selected?.shown ?? null;
  }

  /**
   * Add files and submit them; the first is selected.
   * @param {Iterable<File>} files
   */
  add(files) {
    const sounds = [...files].map((file) => new Sound({ file, name: file.name }));
    this.sounds.unshift(...sounds);
    this.emit("list", null);
    if (sounds.length) this.select(sounds[0]);
    this.#jobs.submitNext();
  }

  /**
   * Classify the file of a sound with the chosen model as well: a sound of its own, so that both results stay.
   * @param {Sound} sound
   */
  classifyAgain(sound) {
    const { file, name, root } = sound;
    if (!file) return;
    const again = new Sound({ file, name });
    this.sounds.splice(this.sounds.indexOf(root), 0, again);
    this.emit("list", null);
    this.select(again);
    this.#jobs.submitNext();
  }

  /**
   * Bring back the sounds of an earlier visit, below those that were added meanwhile. Unfinished ones continue.
   * @param {Sound[]} sounds  the newest first
   */
  restore(sounds) {
    if (!sounds.length) return;
    this.sounds.push(...sounds);
    [...this.sounds].reverse().forEach((sound, number) => (sound.number = number));
    numberFrom(this.sounds.length);
    this.emit("list", null);
    for (const sound of sounds) if (!sound.result && sound.job) this.#jobs.open(sound, sound.job.id);
    this.#jobs.submitNext();
  }

  /** Remove all sounds. */
  clear() {
    for (const sound of this.sounds) for (const one of [sound, ...sound.versions]) one.discard();
    this.sounds = [];
    this.emit("list", null);
    this.select(null);
  }

  /**
   * Add a file as refused, without sending it.
   * @param {File} file
   * @param {ErrorInfo} error
   * @returns {Sound}
   */
  refuse(file, error) {
    const sound = new Sound({ file, name: file.name });
    Object.assign(sound, { phase: "refused", error });
    this.sounds.unshift(sound);
    this.emit("list", null);
    return sound;
  }

  /**
   * Show the job that a link names.
   * @param {string} id
   */
  async reopen(id) {
    const known = this.sounds.find((sound) => (sound.job?.id ?? sound.linkedId) === id);
    if (known && (known.job || !known.ended)) return this.select(known);
    const edited = this.sounds.find(({ versions }) => versions.some(({ job }) => job?.id === id));
    if (edited) return this.select(edited);
    const sound = known ?? new Sound({ name: t("common.result"), linkedId: id });
    if (known) this.#set(sound, NEW_ATTEMPT);
    else {
      this.sounds.unshift(sound);
      this.emit("list", null);
    }
    this.select(sound);
    await this.#jobs.open(sound, id);
  }

  /** @param {Sound | null} sound */
  select(sound) {
    this.selected = sound;
    this.emit("select", sound);
  }

  /**
   * Cancel the current attempt. A link that is still being opened is only closed: its result may belong to another visitor.
   * @param {Sound} sound
   */
  async cancel(sound) {
    sound.halt();
    const { attempt } = sound;
    /** @param {string | null} detail */
    const end = (detail) => this.#set(sound, { phase: "cancelled", note: "", error: detail ? { detail } : null });
    const unopened = sound.linkedId && !sound.job;
    end(unopened ? t("library.not_opened") : t("library.cancelling"));
    this.#jobs.submitNext();
    if (unopened) return;
    const cancelled = await cancelJob(sound);
    const rest = t("library.cancel_unknown");
    if (sound.attempt === attempt) end(cancelled ? null : rest);
  }

  /**
   * Submit a sound again, with its edited versions: one that ended without a result, or with an incomplete one, which the
   * same model completes.
   * @param {Sound} sound
   */
  resubmit({ root }) {
    const model = root.result?.model ?? root.model; // also after a failed attempt
    for (const sound of [root, ...root.versions]) {
      sound.model = model;
      sound.halt();
      sound.channelRequests.clear();
      sound.lookRequests.clear();
      sound.occlusions.clear();
      sound.computations.clear();
      const nothing = { linkedId: null, upload: null, job: null, uploaded: 0, idempotencyKey: null };
      this.#set(sound, { ...NEW_ATTEMPT, ...nothing, result: null, view: null, looking: null });
    }
    this.#jobs.submitNext();
  }

  /**
   * Classify an edited version of a sound. It is shown when its result has come; until then the version before stays. Edits
   * that were undone are discarded.
   * @param {Sound} sound
   * @param {File} file
   */
  edit({ root }, file) {
    const version = new Sound({ file, name: file.name, original: root });
    const { versions } = root;
    if (!root.pendingVersion) versions.splice(root.edits).forEach((one) => one.discard());
    versions.push(version);
    if (versions.length > MAX_VERSIONS) {
      versions.shift()?.discard();
      root.edits = Math.max(root.edits - 1, 0);
    }
    this.#set(root, { showsOriginal: false, editError: null });
    this.#jobs.submitNext();
  }

  /**
   * Undo (-1) or redo (1) an edit. An edit that is still being classified is discarded first.
   * @param {Sound} sound
   * @param {-1 | 1} by
   */
  stepEdits({ root }, by) {
    const pending = root.pendingVersion;
    if (pending) {
      if (by > 0) return;
      this.#drop(pending, null);
    } else {
      const edits = Math.min(Math.max(root.edits + by, 0), root.versions.length);
      this.#set(root, { edits, showsOriginal: false, editError: null });
    }
  }

  /**
   * Show the original of an edited sound, or the edited sound again.
   * @param {Sound} sound
   * @param {boolean} showsOriginal
   */
  showOriginal({ root }, showsOriginal) {
    this.#set(root, { showsOriginal });
  }

  /**
   * @param {Sound} version  a pending one
   * @param {ErrorInfo | null} error
   */
  #drop(version, error) {
    const { root } = version;
    root.versions.splice(root.versions.indexOf(version), 1);
    version.discard();
    this.#set(root, { editError: error });
    this.#jobs.submitNext();
  }

  /** @param {Sound} sound */
  remove(sound) {
    for (const one of [sound, ...sound.versions]) one.discard();
    const at = this.sounds.indexOf(sound);
    this.sounds.splice(at, 1);
    this.emit("list", null);
    if (this.selected === sound) this.select(this.sounds[Math.min(at, this.sounds.length - 1)] ?? null);
    this.#jobs.submitNext();
  }

  /**
   * Attach the sound file to a reopened result, for playback and for fetching channels.
   * @param {Sound} sound
   * @param {File} file
   * @returns {boolean} whether the file has the size of the result's
   */
  attach(sound, file) {
    if (file.size !== sound.job?.audio.bytes) return false;
    if (sound.url) URL.revokeObjectURL(sound.url);
    this.#set(sound, { file, url: URL.createObjectURL(file) });
    return true;
  }

  /**
   * Submit a sound once more as a job that keeps it: whoever opens the link of that job hears it.
   * @param {Sound} sound
   * @param {number} kept  seconds that the server keeps it
   */
  async share(sound, kept) {
    const { file, result } = sound;
    if (!file || !result) return;
    this.#set(sound, { share: { sending: true } });
    const options = { model: result.model, ...sameParts(result), keep_sound: "true", ...overlapOf(result) };
    try {
      const { id } = await api.submit(file, options, api.newIdempotencyKey()).promise;
      if (this.#has(sound)) this.#set(sound, { share: { id, until: Date.now() + 1_000 * kept } });
      else api.cancelJob(id).catch(() => {}); // it was removed meanwhile
    } catch (error) {
      this.#set(sound, { share: { error: error instanceof Error ? error.message : String(error) } });
    }
  }

  /**
   * Delete the job of `share`, and with it the sound that the server keeps.
   * @param {Sound} sound
   * @returns {Promise<boolean>} whether the server has it no longer
   */
  async stopSharing(sound) {
    const { share } = sound;
    if (!share?.id) return true;
    try {
      await api.cancelJob(share.id);
    } catch (error) {
      if (!(error instanceof api.Refused && [404, 410].includes(error.status))) return false;
    }
    this.#set(sound, { share: null });
    return true;
  }

  /** Whether a sound is still on the page. @param {Sound} sound */
  #has = (sound) => this.sounds.includes(sound.root) && [sound.root, ...sound.root.versions].includes(sound);

  /**
   * Look into another window or class of a sound; see look.js.
   * @param {Sound} sound
   * @param {Partial<Pick<Sound, "view" | "looking">>} changes
   */
  setView(sound, changes) {
    this.#set(sound, changes);
  }

  /**
   * @param {Sound} sound
   * @param {Partial<Sound>} changes
   */
  #set(sound, changes) {
    Object.assign(sound, changes);
    const { pending, root } = sound;
    if (pending && sound.phase === "succeeded") {
      sound.pending = false;
      root.edits = Math.max(root.edits, root.versions.indexOf(sound) + 1);
    } else if (pending && sound.ended) return this.#drop(sound, sound.error ?? {});
    this.emit("change", sound);
    if (pending) this.emit("change", root);
  }
}

export const library = new Library();
