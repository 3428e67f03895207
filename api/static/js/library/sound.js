// One sound on this page: its file, its job, its result, and its edited versions.

import * as api from "../server/api.js";

/** @import { ErrorInfo, Job, JobStatus, Result } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Upload } from "../server/api.js" */

/**
 * waiting: for a free upload or for the server. refused: never became a job. gone: the server no longer has the job.
 * @typedef {"waiting" | "uploading" | JobStatus | "refused" | "gone"} Phase
 */

/** @typedef {{window: number, camClass: string}} Look  a window, and the class of its class activation map */

/**
 * A job beside that of the sound, whose link carries the sound: while it is sent, until it expires, or why it failed.
 * @typedef {{sending: true, id?: undefined, error?: undefined}
 *   | {id: string, until: number, sending?: undefined, error?: undefined}
 *   | {error: string, id?: undefined, sending?: undefined}} Share  until: milliseconds since 1970
 */

/** What a new attempt begins with. */
export const NEW_ATTEMPT = /** @type {const} */ ({ phase: "waiting", error: null, note: "", connected: true });

let soundCount = 0;

/** Let the next sound have this number. @param {number} number */
export const numberFrom = (number) => (soundCount = number);

export class Sound {
  /** In the order in which sounds were added. */
  number = soundCount++;
  /** Of its record in the browser's database, and of its entries in the history. */
  key = api.newIdempotencyKey();
  /** The model of the incomplete result that it had; null: the chosen one. @type {string | null} */
  model = null;
  /** @type {Phase} */
  phase = "waiting";
  /** @type {Upload | null} */
  upload = null;
  /** Idempotency-Key of the submission. @type {string | null} */
  idempotencyKey = null;
  /** @type {Job | null} */
  job = null;
  /** @type {Result | null} */
  result = null;
  /** The result with the maps of another window, or the class activation of another class; see look.js. @type {Result | null} */
  view = null;
  /** What has been requested for `view` and is not there yet. @type {Look | null} */
  looking = null;
  /** Share of the file that has been sent. */
  uploaded = 0;
  /** Of a cancelled sound: why the server may still have something of it. @type {ErrorInfo | null} */
  error = null;
  /** Why it waits. */
  note = "";
  connected = true;
  /** Window and layer -> promise of its channels, by layer name; see network/fetch-channels.js. @type {Map<string, Promise<Map<string, Matrix[]>>>} */
  channelRequests = new Map();
  /** Window and class -> promise of a result; see look.js. @type {Map<string, Promise<Result>>} */
  lookRequests = new Map();
  /** Window and class -> promise of its occlusion map; see edit/occlusion.js. @type {Map<string, Promise<import("../edit/occlusion.js").Occlusion>>} */
  occlusions = new Map();
  /** Window and cell -> promise of how it was computed; see network/fetch-arithmetic.js. @type {Map<string, Promise<import("../server/types.js").Arithmetic>>} */
  computations = new Map();
  /** Number of the attempt: responses to an earlier one are ignored. */
  attempt = 0;
  /** Its job is queued, and nothing has changed for some time. */
  delayed = false;
  /** @type {number | undefined} */
  delayTimer;
  /** Too long for a spectrogram of the whole. */
  long = false;
  /** Edited versions of this sound, each made from the one before. Those after `edits` have been undone, or are pending. @type {Sound[]} */
  versions = [];
  /** How many edits are applied. */
  edits = 0;
  /** Whether the original is shown although there are edits. */
  showsOriginal = false;
  /** Why the last edit could not be classified. @type {ErrorInfo | null} */
  editError = null;
  /** Whether it is an edited version that has not been shown yet. */
  pending = false;
  /** See share.js. @type {Share | null} */
  share = null;
  stop = () => {};

  /**
   * @param {object} options
   * @param {string} options.name
   * @param {File | null} [options.file]  null for a result reopened by its link
   * @param {string | null} [options.linkedId]  id of the job that the link named
   * @param {Sound | null} [options.original]  the sound of which it is an edited version
   * @param {boolean} [options.example]  whether it is the example of the page, which is not stored
   */
  constructor({ name, file = null, linkedId = null, original = null, example = false }) {
    this.name = name;
    this.file = file;
    this.linkedId = linkedId;
    this.original = original;
    this.example = example;
    this.pending = original !== null;
    /** For the player; an empty file has none, which browsers report as an error. @type {string | null} */
    this.url = file?.size ? URL.createObjectURL(file) : null;
  }

  /** Stop the current attempt; whatever still arrives for it is ignored. */
  halt() {
    this.attempt += 1;
    clearTimeout(this.delayTimer);
    this.stop();
  }

  get ended() {
    return ["succeeded", "failed", "cancelled", "refused", "gone"].includes(this.phase);
  }

  /** The sound in the list: itself, or the original of an edited version. @returns {Sound} */
  get root() {
    return this.original ?? this;
  }

  /** With the edits that are applied. @returns {Sound} */
  get edited() {
    return this.versions[this.edits - 1] ?? this;
  }

  /** What the panels show: an edited version, or the original. @returns {Sound} */
  get shown() {
    return this.showsOriginal ? this : this.edited;
  }

  /** The last version that is being classified; null: none. @returns {Sound | null} */
  get pendingVersion() {
    return this.versions.findLast(({ pending }) => pending) ?? null;
  }

  /** Stop it and free its file; the server deletes what it keeps of it. */
  discard() {
    this.halt();
    if (!this.ended) cancelJob(this);
    if (this.share?.id) api.cancelJob(this.share.id).catch(() => {});
    if (this.url) URL.revokeObjectURL(this.url);
  }
}

/**
 * Cancel the job of a sound. Where the upload was sent whole, its response names the job.
 * @param {Sound} sound
 * @returns {Promise<boolean>} whether the server keeps nothing of it
 */
export async function cancelJob({ job, upload }) {
  try {
    job ??= (await upload?.promise) ?? null;
  } catch (error) {
    return !(error instanceof api.Unreachable); // aborted, or refused
  }
  if (!job) return true; // nothing was sent
  return api.cancelJob(job.id).then(
    () => true,
    (error) => error instanceof api.Refused && [404, 410].includes(error.status),
  );
}
