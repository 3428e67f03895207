// The client of the HTTP API; knows nothing of the page. Field names are those of the server's schemas.

import { Emitter } from "../state/emitter.js";
import { channels, floats, matrix, numbers } from "../signal/matrix.js";
import { inWords, useLimits } from "./errors.js";
import { decode } from "./msgpack.js";
import { t } from "../words.js";

/** @import { Arithmetic, Job, JobWithResult, Limits, ModelCard, ModelList, PackedArithmetic, PackedArray, PackedResult, Result, Window } from "./types.js" */

const NO_RESPONSE = t("common.no_response_now");
const MOST_PROBABLE = 10; // classes of a window that are kept in any case
/** Classes of a window with less are not kept. Nothing that is muted can lower it visibly. */
export const LEAST_CONFIDENCE = 0.005;

/** An error response of the server (RFC 9457). */
export class Refused extends Error {
  /**
   * @param {{code?: string, title?: string, detail?: string}} problem
   * @param {number} status
   * @param {number | null} retryAfter  seconds
   */
  constructor(problem, status, retryAfter) {
    const { code = "", title = "", detail } = inWords(problem);
    super(detail ?? title);
    this.code = code;
    this.title = title;
    this.detail = detail;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** No response, or one that broke off. */
export class Unreachable extends Error {}

/** The browser cannot read a chosen file. */
export class Unreadable extends Error {
  title = t("api.unreadable");

  /** @param {File} file */
  constructor({ name }) {
    super(t("api.unreadable.detail", { name }));
  }
}

/**
 * Emits `required` when the server requires an API key, and `granted` when a valid one has been entered.
 * @type {Emitter<{required: null, granted: null}>}
 */
export const authentication = new Emitter();

/**
 * Retry when that may help: after a 401 once a key has been entered, otherwise after a pause.
 * @param {unknown} error
 * @param {() => void} retry
 * @param {number} [pause]  milliseconds
 */
export function retryLater(error, retry, pause) {
  if (error instanceof Refused && error.status === 401) authentication.on("granted", () => retry(), { once: true });
  else setTimeout(retry, pause);
}

/**
 * The whole response body, or an error: Refused for an error response, Unreachable for none or for half of one.
 * @template Body
 * @param {string} path
 * @param {(response: Response) => Promise<Body>} read
 * @param {RequestInit} [options]
 * @param {RequestCache} [cache]
 * @returns {Promise<Body>}
 */
async function request(path, read, options = {}, cache = "no-store") {
  let failed;
  try {
    const response = await fetch(path, { ...options, cache });
    if (response.ok) return await read(response);
    failed = { status: response.status, body: await response.text(), after: response.headers.get("Retry-After") };
  } catch {
    throw new Unreachable(NO_RESPONSE);
  }
  throw errorOf(failed.status, failed.body, failed.after);
}

/**
 * @param {number} status
 * @param {string} body
 * @param {string | null} retryAfter  the header
 * @returns {Refused | Unreachable}
 */
function errorOf(status, body, retryAfter) {
  if (status === 502 || status === 504) return new Unreachable(NO_RESPONSE); // from a proxy without a backend
  if (status === 401) authentication.emit("required", null);
  let problem;
  try {
    problem = JSON.parse(body);
  } catch {
    problem = { title: t("api.status", { status }), detail: t("api.status.detail", { status }) };
  }
  return new Refused(problem ?? {}, status, Number(retryAfter) || null);
}

/**
 * @param {string} path
 * @returns {Promise<any>} what the schema of that path says
 */
const json = (path) => request(path, (response) => response.json());

/**
 * For results: as JSON, their arrays would be three times as large.
 * @param {string} path
 * @returns {Promise<any>} what the schema of that path says
 */
const msgpack = async (path) =>
  decode(await request(path, (response) => response.arrayBuffer(), { headers: { Accept: "application/msgpack" } }));

/** @type {(path: string, options?: RequestInit) => Promise<string>} */
const text = (path, options) => request(path, (response) => response.text(), options);

/** @param {string} id */
const jobPath = (id) => `/v1/jobs/${encodeURIComponent(id)}`;

/** @returns {Promise<Limits>} */
export async function getLimits() {
  const limits = await json("/v1/limits");
  useLimits(limits);
  return limits;
}

/** @returns {Promise<ModelList>} */
export const getModels = () => json("/v1/models");

/**
 * The result with which the page opens for a visitor without sounds, and the card of its model; see docs/example.py.
 * @returns {Promise<{job: JobWithResult, card: ModelCard}>}
 */
export async function getExample() {
  const { job, card } = decode(await request(new URL("../../example.msgpack", import.meta.url).href, (response) => response.arrayBuffer(), {}, "default"));
  return { job: unpackJob(job), card };
}

/** @param {string} id */
export const cancelJob = (id) => text(jobPath(id), { method: "DELETE" });

/** @param {string} address */
export const getSound = (address) => request(address, (response) => response.blob(), {}, "default");

/** Liveness. */
export const ping = () => text("/health/live");

/** A random Idempotency-Key. `crypto.randomUUID` would do, but over plain HTTP a browser does not have it. */
export function newIdempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @typedef {object} Upload
 * @property {Promise<JobWithResult>} promise  rejects with Refused, Unreachable, Unreadable or an AbortError
 * @property {() => void} abort
 */

/**
 * Submit a file. A file that has been sent whole becomes a job whether or not the response is read, so abort() then lets the
 * response come: it has the id of the job.
 * @param {File} file
 * @param {Record<string, string | number>} options  the other form fields
 * @param {string} key  Idempotency-Key: submitted again after a lost response, it is the same job
 * @param {object} [more]
 * @param {(share: number) => void} [more.onProgress]  gets the share of the file that has been sent, 0 to 1
 * @param {number} [more.wait]  seconds: if the job ends in that time, the response is the finished job with its result
 * @returns {Upload}
 */
export function submit(file, options, key, { onProgress = () => {}, wait = 0 } = {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, String(value));
  form.append("file", file, file.name);
  const upload = new XMLHttpRequest(); // fetch does not report the progress of an upload
  let sent = false;
  const body = () => /** @type {ArrayBuffer} */ (upload.response);
  const text = () => new TextDecoder().decode(body());
  /** @type {Promise<JobWithResult>} */
  const promise = new Promise((resolve, reject) => {
    upload.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    upload.upload.onload = () => (sent = true);
    upload.onload = () =>
      upload.status < 300
        ? resolve(wait ? unpackJob(decode(body())) : JSON.parse(text()))
        : reject(errorOf(upload.status, text(), upload.getResponseHeader("Retry-After")));
    upload.onerror = async () => {
      const first = await file
        .slice(0, 1)
        .arrayBuffer()
        .catch(() => null); // the browser does not say which end failed
      reject(first ? new Unreachable(NO_RESPONSE) : new Unreadable(file));
    };
    upload.onabort = () => reject(new DOMException(t("api.cancelled"), "AbortError"));
    upload.open("POST", "/v1/jobs");
    upload.responseType = "arraybuffer";
    upload.setRequestHeader("Idempotency-Key", key);
    if (wait) {
      upload.setRequestHeader("Accept", "application/msgpack");
      upload.setRequestHeader("Prefer", `wait=${wait}`);
    }
    upload.send(form);
  });
  return { promise, abort: () => sent || upload.abort() };
}

/**
 * A job; one that has succeeded has its `result`.
 * @param {string} id
 * @returns {Promise<JobWithResult>}
 */
export const getJob = async (id) => unpackJob(await msgpack(jobPath(id)));

/**
 * @param {Job & {result?: PackedResult | null}} packed
 * @returns {JobWithResult}
 */
const unpackJob = ({ result, ...job }) => ({ ...job, result: result && unpack(result) });

/**
 * The result of a job.
 * @param {string} id
 */
export const getResult = async (id) => unpack(await msgpack(`${jobPath(id)}/result`));

/**
 * @param {PackedResult} packed
 * @returns {Result}
 */
function unpack(packed) {
  /** @type {<Value>(arrays: Record<string, PackedArray> | null | undefined, read: (array: PackedArray) => Value) => Map<string, Value>} */
  const mapped = (arrays, read) =>
    new Map(Object.entries(arrays ?? {}).map(([name, array]) => /** @type {const} */ ([name, read(array)])));
  /** @type {<Value>(array: PackedArray | null | undefined, read: (array: PackedArray) => Value) => Value | null} */
  const optional = (array, read) => (array ? read(array) : null);
  return {
    model: packed.model,
    predictions: packed.predictions,
    duration: packed.duration,
    sample_rate: packed.sample_rate,
    combined: packed.combined,
    window: packed.window,
    windows: packed.windows?.map(probable),
    verdict: packed.verdict ?? "named",
    known: packed.known ?? null,
    level: packed.level ?? null,
    warnings: packed.warnings ?? [],
    detections: packed.parts?.includes("detections") ? (packed.detections ?? []) : null,
    camClass: packed.predictions[0].class,
    spectrogram: optional(packed.full_spectrogram ?? packed.ltsa ?? packed.spectrogram, matrix),
    averaged: Boolean(packed.ltsa && !packed.full_spectrogram),
    detail: packed.ltsa ? optional(packed.spectrogram, matrix) : null,
    cam: optional(packed.cam, matrix),
    occlusion: optional(packed.occlusion, matrix),
    waveform: optional(packed.waveform, matrix),
    embedding: optional(packed.embedding, floats),
    maps: mapped(packed.maps, matrix),
    channels: mapped(packed.channels, channels),
    arithmetic: packed.arithmetic ? unpackArithmetic(packed.arithmetic) : null,
  };
}

/**
 * A window with the classes that the page may show: of a long sound and a model of many classes, all of them are several
 * hundred thousand objects, which take a second to store.
 * @param {Window} window
 * @returns {Window}
 */
const probable = ({ predictions, ...window }) => ({
  ...window,
  predictions: predictions.filter(({ confidence }, rank) => rank < MOST_PROBABLE || confidence >= LEAST_CONFIDENCE),
});

/**
 * @param {PackedArithmetic} packed
 * @returns {Arithmetic}
 */
function unpackArithmetic({ operations, ...rest }) {
  return {
    ...rest,
    operations: operations.map(({ patch, kernel, ...operation }) => ({
      ...operation,
      ...(patch ? { patch: numbers(patch) } : {}),
      ...(kernel ? { kernel: numbers(kernel) } : {}),
    })),
  };
}
