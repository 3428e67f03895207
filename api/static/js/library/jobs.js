// The jobs of the sounds: submits what waits, follows each job to its result, and retries where that may help.

import * as api from "../server/api.js";
import { inWords } from "../server/errors.js";
import { followJob, isFinal } from "../server/follow-job.js";
import { announcedDuration } from "./duration.js";
import { fileOfJob } from "./job-file.js";
import { reachability } from "../server/reachability.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";

/** @import { ErrorInfo, Job, JobWithResult, Result } from "../server/types.js" */
/** @import { Phase, Sound } from "./sound.js" */

const PARTS = "maps,waveform,windows,cam,detections";
const SPECTROGRAM = "full_spectrogram"; // which the server refuses for a recording of more than ten minutes
const AVERAGE = "ltsa,spectrogram"; // instead: the whole in fewer columns, and the window that decides
const WHOLE_SECONDS = 600; // those ten minutes; with another limit of the server, a recording is sent a second time
const MAYBE_LONG = 400_000; // bytes: ten minutes at the lowest bit rate that is usual
const EVERY_CLASS = 1_000; // the whole distribution: confidence gap and entropy are of all classes
const MAX_UPLOADS = 2; // at the same time
const WAIT = 10; // seconds that the response to an edited version waits for its result
const SLOW_QUEUE = 20_000; // milliseconds without a change after which a queued job is said to take longer than usual

/**
 * Options of a job whose result has all that the page shows.
 * @param {boolean} long  whether the sound has more than ten minutes
 */
const wholeResult = (long) => ({ top_k: EVERY_CLASS, include: `${PARTS},${long ? AVERAGE : SPECTROGRAM}` });

/**
 * Options of a job whose result has all that a result on the page has.
 * @param {Result} result
 */
export const sameParts = ({ averaged, duration }) => wholeResult(averaged || duration > WHOLE_SECONDS);

/**
 * The functions of the library that jobs need.
 * @typedef {object} Owner
 * @property {() => Sound[]} all  returns the sounds and their edited versions
 * @property {(sound: Sound, changes: Partial<Sound>) => void} set  changes a sound
 * @property {(sound: Sound, file: File) => void} attach  attaches a file to a sound that has none
 */

/** Keeps the state of each job in its sound. A sound in the phase `waiting` is submitted by the next `submitNext`. */
export class Jobs {
  #uploading = 0;
  /** @type {Set<Sound>} */
  #measured = new Set(); // whose length is being read, before they are sent
  #all;
  #set;
  #attach;

  /** @param {Owner} owner */
  constructor({ all, set, attach }) {
    this.#all = all;
    this.#set = set;
    this.#attach = attach;
  }

  /** Submit the sounds that wait, the first added first (of one drop: the one at the top), as far as uploads are free. */
  submitNext() {
    while (this.#uploading < MAX_UPLOADS) {
      const [sound] = this.#all()
        .filter((one) => one.phase === "waiting" && one.file && !one.note && !one.job && !this.#measured.has(one))
        .sort((a, b) => a.number - b.number);
      if (!sound?.file) return;
      this.#submit(sound, sound.file);
    }
  }

  /**
   * @param {Sound} sound
   * @param {File} file
   */
  async #submit(sound, file) {
    this.#uploading += 1;
    const { attempt } = sound;
    try {
      if (!sound.long && file.size > MAYBE_LONG) {
        this.#measured.add(sound);
        sound.long = (await announcedDuration(file)) > WHOLE_SECONDS;
        this.#measured.delete(sound);
        if (sound.attempt !== attempt) return;
      }
      sound.idempotencyKey ??= api.newIdempotencyKey();
      const model = sound.model ?? sound.original?.result?.model ?? settings.get("model");
      const options = { ...wholeResult(sound.long), ...(model ? { model } : {}) };
      const upload = api.submit(file, options, sound.idempotencyKey, {
        onProgress: (uploaded) => this.#set(sound, { uploaded }),
        wait: sound.original ? WAIT : 0,
      });
      sound.stop = upload.abort;
      this.#set(sound, { phase: "uploading", upload, uploaded: 0 });
      const job = await upload.promise;
      if (sound.attempt === attempt) this.#adopt(sound, job);
    } catch (error) {
      if (sound.attempt !== attempt) return;
      if (error instanceof api.Refused && error.detail?.includes(SPECTROGRAM) && !sound.long) {
        sound.long = true;
        sound.idempotencyKey = null; // another request
        this.#set(sound, { phase: "waiting", upload: null });
      } else {
        this.#fail(sound, error, () => this.#resume(sound));
      }
    } finally {
      this.#uploading -= 1;
      this.submitNext();
    }
  }

  /**
   * Get a job of which only the id is known.
   * @param {Sound} sound
   * @param {string} id
   */
  async open(sound, id) {
    const { attempt } = sound;
    try {
      const job = await api.getJob(id);
      if (sound.attempt === attempt) this.#adopt(sound, job);
    } catch (error) {
      if (sound.attempt === attempt) this.#fail(sound, error, () => this.open(sound, id));
    }
  }

  /**
   * Continue with a job, and follow it unless it has ended.
   * @param {Sound} sound
   * @param {JobWithResult} job
   */
  #adopt(sound, job) {
    this.#update(sound, job);
    if (isFinal(job.status)) return;
    sound.stop = followJob(job.id, {
      onJob: (now) => this.#update(sound, now),
      onDisconnect: () => {
        this.#set(sound, { connected: false });
        reachability.waitForServer();
      },
      onReconnect: () => this.#set(sound, { connected: true }),
      onGone: (error) => this.#set(sound, { phase: "gone", error }),
    });
  }

  /**
   * Take over a state of the job. A success is only published together with its result.
   * @param {Sound} sound
   * @param {JobWithResult} state
   */
  async #update(sound, { result: included, ...job }) {
    sound.connected = true;
    this.#watchQueue(sound, job);
    if (job.status !== "succeeded") {
      const name = sound.file?.name ?? job.audio.name ?? sound.name;
      this.#set(sound, { job, phase: job.status, error: job.error ? inWords(job.error) : null, note: "", name });
      return;
    }
    sound.job = job;
    const { attempt } = sound;
    try {
      const result = included ?? (await api.getResult(job.id));
      if (sound.attempt !== attempt) return;
      const name = sound.file?.name ?? job.audio.name ?? t("common.result");
      this.#set(sound, { result, view: result, phase: "succeeded", error: null, note: "", name });
      if (sound.file) return;
      const file = await fileOfJob(job);
      if (file && sound.attempt === attempt && !sound.file) this.#attach(sound, file);
    } catch (error) {
      if (sound.attempt === attempt) this.#fail(sound, error, () => this.#update(sound, job));
    }
  }

  /**
   * Note when a queued job does not come closer: its worker may be stopped.
   * @param {Sound} sound
   * @param {Job} job  its new state
   */
  #watchQueue(sound, job) {
    const { job: before } = sound;
    if (before?.id === job.id && before.status === job.status && before.queue_position === job.queue_position) return;
    clearTimeout(sound.delayTimer);
    sound.delayed = false;
    if (job.status === "queued") sound.delayTimer = setTimeout(() => this.#set(sound, { delayed: true }), SLOW_QUEUE);
  }

  /**
   * Retry where that may help: when the server is reachable again, has a key, or accepts requests. Otherwise the sound ends.
   * @param {Sound} sound
   * @param {unknown} error
   * @param {() => void} retry
   */
  #fail(sound, error, retry) {
    const { attempt } = sound;
    const again = () => {
      if (sound.attempt === attempt) retry();
    };
    if (error instanceof api.Unreachable) {
      const note = t("library.waits");
      this.#set(sound, { phase: "waiting", note, connected: false });
      reachability.waitForServer();
      reachability.on("reachable", again, { once: true });
    } else if (error instanceof api.Refused && error.status === 401) {
      this.#set(sound, { phase: "waiting", note: t("library.needs_key") });
      api.retryLater(error, again);
    } else if (error instanceof api.Refused && (error.status === 429 || error.status === 503)) {
      const seconds = error.retryAfter ?? 5;
      this.#set(sound, { phase: "waiting", note: t("library.retry", { title: error.title, seconds }) });
      setTimeout(again, seconds * 1_000);
    } else {
      this.#set(sound, { ...ending(error), note: "" });
    }
  }

  /** @param {Sound} sound */
  #resume(sound) {
    this.#set(sound, { note: "", connected: true });
    this.submitNext();
  }
}

/**
 * How a sound ends with an error that no retry helps against.
 * @param {unknown} error
 * @returns {{phase: Phase, error: ErrorInfo}}
 */
function ending(error) {
  if (error instanceof api.Refused) {
    const gone = ["job_not_found", "job_expired"].includes(error.code);
    return { phase: gone ? "gone" : "refused", error: { code: error.code, title: error.title, detail: error.detail ?? error.message } };
  }
  const detail = error instanceof Error ? error.message : String(error);
  const title = error instanceof api.Unreadable ? error.title : t("library.failed");
  return { phase: "refused", error: { title, detail } };
}
