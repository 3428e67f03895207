// The sounds on this page and what has become of each. Nothing here draws anything.

import { FINAL, follow } from "./follow.js";
import * as server from "./server.js";
import { settings } from "./settings.js";

const PARTS = "maps,full_spectrogram,waveform,windows,cam";
const EVERY_CLASS = 1_000; // the whole distribution: confidence gap and entropy are of all classes
const UPLOADS = 2; // at a time
const AFRESH = { phase: "waiting", error: null, note: "", connected: true }; // what a sound begins with again

/**
 * One sound. `phase` is one of
 *   waiting (for its turn or for the server), uploading, queued, running,   then one of
 *   succeeded, failed, cancelled, refused (never became a job), gone (the server has forgotten it).
 */
class Sound {
  constructor({ file = null, name, opened = null }) {
    this.file = file; // File, or null for a result reopened by its link
    this.opened = opened; // id of the job that the link named
    this.name = name;
    this.url = file ? URL.createObjectURL(file) : null; // for the player
    this.phase = "waiting";
    this.upload = null; // see server.submit
    this.job = null;
    this.result = null; // see server.result
    this.uploaded = 0; // share of the file
    this.error = null; // {title, detail}; of one that was cancelled, why the server may still have something of it
    this.note = ""; // why it waits
    this.connected = true;
    this.looks = new Map(); // layer -> promise of {layer name: [Matrix]}
    this.run = 0; // raised by halt(): what was asked before is for nobody
    this.stop = () => {};
  }

  /** Stop what is under way; what of it still comes is let go. */
  halt() {
    this.run += 1;
    this.stop();
  }

  get ended() {
    return [...FINAL, "refused", "gone"].includes(this.phase);
  }
}

/** Whether the server has nothing more of a sound, once it was told; of an upload sent whole its answer tells the job. */
async function forgotten({ job, upload }) {
  try {
    job ??= await upload?.promise;
  } catch (error) {
    return !(error instanceof server.Unreachable); // stopped half way, or refused
  }
  if (!job) return true; // nothing was sent
  return server.cancel(job.id).then(
    () => true,
    (error) => [404, 410].includes(error.status),
  );
}

/** Dispatches `list` (sounds came or went), `change` (detail: a sound), `select` (detail: a sound or null). */
class Library extends EventTarget {
  sounds = [];
  selected = null;
  reachable = true;
  #uploading = 0;

  /** Add files and begin with them; the first is selected. */
  add(files) {
    const sounds = [...files].map((file) => new Sound({ file, name: file.name }));
    this.sounds.unshift(...sounds);
    this.dispatchEvent(new Event("list"));
    if (sounds.length) this.select(sounds[0]);
    this.#next();
  }

  /** Refuse a file without sending it. */
  refuse(file, title, detail) {
    const sound = new Sound({ file, name: file.name });
    Object.assign(sound, { phase: "refused", error: { title, detail } });
    this.sounds.unshift(sound);
    this.dispatchEvent(new Event("list"));
    if (!this.selected) this.select(sound);
  }

  /** Show a job that somebody has a link to. */
  async reopen(id) {
    const known = this.sounds.find((sound) => (sound.job?.id ?? sound.opened) === id);
    if (known && (known.job || !known.ended)) return this.select(known);
    const sound = known ?? new Sound({ name: "Result", opened: id });
    if (known) this.#set(sound, AFRESH);
    else {
      this.sounds.unshift(sound);
      this.dispatchEvent(new Event("list"));
    }
    this.select(sound);
    await this.#open(sound);
  }

  select(sound) {
    this.selected = sound;
    this.dispatchEvent(new CustomEvent("select", { detail: sound }));
  }

  /** Cancel what is under way. A link that is still being opened is left alone: its result may be somebody else's. */
  async cancel(sound) {
    sound.halt();
    const { run } = sound;
    const end = (detail) => this.#set(sound, { phase: "cancelled", note: "", error: detail && { detail } });
    const unopened = sound.opened && !sound.job;
    end(unopened ? "It was not opened." : "The server is being told.");
    this.#next();
    if (unopened) return;
    const left = (await forgotten(sound)) ? null : "The server may still finish it; it forgets it by itself.";
    if (sound.run === run) end(left);
  }

  /** Begin again with a sound that ended without a result, or with another model. */
  again(sound) {
    sound.halt();
    sound.looks.clear();
    this.#set(sound, { ...AFRESH, opened: null, upload: null, job: null, result: null, uploaded: 0, key: null });
    this.#next();
  }

  remove(sound) {
    sound.halt();
    if (!sound.ended) forgotten(sound);
    if (sound.url) URL.revokeObjectURL(sound.url);
    const at = this.sounds.indexOf(sound);
    this.sounds.splice(at, 1);
    this.dispatchEvent(new Event("list"));
    if (this.selected === sound) this.select(this.sounds[Math.min(at, this.sounds.length - 1)] ?? null);
    this.#next();
  }

  /** Give a reopened result its sound back, to listen to and to look further into. Returns whether it is that sound. */
  attach(sound, file) {
    if (file.size !== sound.job.audio.bytes) return false;
    if (sound.url) URL.revokeObjectURL(sound.url);
    this.#set(sound, { file, url: URL.createObjectURL(file) });
    return true;
  }

  #set(sound, changes) {
    Object.assign(sound, changes);
    this.dispatchEvent(new CustomEvent("change", { detail: sound }));
  }

  /** Begin with the next waiting sounds. */
  #next() {
    while (this.#uploading < UPLOADS) {
      const sound = this.sounds.findLast((one) => one.phase === "waiting" && one.file && !one.note);
      if (!sound) return;
      this.#send(sound);
    }
  }

  async #send(sound) {
    this.#uploading += 1;
    const { run } = sound;
    try {
      sound.key ??= server.newKey();
      const options = {
        top_k: EVERY_CLASS,
        include: PARTS,
        ...(settings.get("model") ? { model: settings.get("model") } : {}),
      };
      const upload = server.submit(sound.file, options, sound.key, (uploaded) => this.#set(sound, { uploaded }));
      sound.stop = upload.abort;
      this.#set(sound, { phase: "uploading", upload, uploaded: 0 });
      const job = await upload.promise;
      if (sound.run === run) this.#take(sound, job);
    } catch (error) {
      if (sound.run === run) this.#failed(sound, error, () => this.#wake(sound));
    } finally {
      this.#uploading -= 1;
      this.#next();
    }
  }

  /** Ask for a job that is known by its id alone. */
  async #open(sound) {
    const { run } = sound;
    try {
      const job = await server.job(sound.opened);
      if (sound.run === run) this.#take(sound, job);
    } catch (error) {
      if (sound.run === run) this.#failed(sound, error, () => this.#open(sound));
    }
  }

  /** Go on with a job that the server has told of. */
  #take(sound, job) {
    this.#update(sound, job);
    if (!FINAL.includes(job.status)) this.#follow(sound);
  }

  #follow(sound) {
    sound.stop = follow(sound.job.id, {
      onJob: (job) => this.#update(sound, job),
      onLost: () => {
        this.#set(sound, { connected: false });
        this.#lost();
      },
      onBack: () => this.#set(sound, { connected: true }),
      onGone: (error) => this.#set(sound, { phase: "gone", error }),
    });
  }

  /** What the server says of the job; of one that has succeeded the result is there, or fetched before it is said. */
  async #update(sound, { result: sent, ...job }) {
    sound.connected = true;
    if (job.status !== "succeeded") {
      const error = job.error ?? null;
      this.#set(sound, {
        job,
        phase: job.status,
        error,
        note: "",
        name: sound.file?.name ?? job.audio.name ?? sound.name,
      });
      return;
    }
    sound.job = job;
    const { run } = sound;
    try {
      const result = sent ?? (await server.result(job.id));
      if (sound.run !== run) return;
      this.#set(sound, {
        result,
        phase: "succeeded",
        error: null,
        note: "",
        name: sound.file?.name ?? job.audio.name ?? "Result",
      });
    } catch (error) {
      if (sound.run === run) this.#failed(sound, error, () => this.#update(sound, job));
    }
  }

  /** A refusal that will pass is waited out, a server that is away is waited for; the rest is told. */
  #failed(sound, error, retry) {
    const { run } = sound;
    const again = () => sound.run === run && retry();
    if (error instanceof server.Unreachable) {
      this.#set(sound, {
        phase: "waiting",
        note: "The server does not answer. This goes on when it is back.",
        connected: false,
      });
      this.#lost();
      this.addEventListener("reachable", again, { once: true });
    } else if (error instanceof server.Refused && error.status === 401) {
      this.#set(sound, { phase: "waiting", note: "Waits for a key of this service" });
      server.later(error, again);
    } else if (error instanceof server.Refused && (error.status === 429 || error.status === 503)) {
      const seconds = error.retryAfter ?? 5;
      this.#set(sound, { phase: "waiting", note: `${error.title}. Trying again in ${seconds} s.` });
      setTimeout(again, seconds * 1_000);
    } else {
      const phase = ["job_not_found", "job_expired"].includes(error.code) ? "gone" : "refused";
      this.#set(sound, {
        phase,
        error: { title: error.title ?? "That did not work", detail: error.detail ?? error.message },
        note: "",
      });
    }
  }

  #wake(sound) {
    this.#set(sound, { note: "", connected: true });
    this.#next();
  }

  /** Nobody answers: say so, and ask until somebody does. Dispatches `reachable` or `unreachable`. */
  async #lost() {
    if (!this.reachable) return;
    this.reachable = false;
    this.dispatchEvent(new Event("unreachable"));
    while (!this.reachable) {
      await new Promise((resolve) => setTimeout(resolve, 2_000));
      this.reachable = await server.alive().then(
        () => true,
        (error) => error instanceof server.Refused,
      );
    }
    this.dispatchEvent(new Event("reachable"));
  }
}

export const library = new Library();
