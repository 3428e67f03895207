// The HTTP interface, and nothing of the page. Field names are those of the server's schemas.

import { decode } from "./msgpack.js";
import { channels, floats, matrix } from "./matrix.js";

const AWAY = "The server does not answer.";

/** What the server answered instead of what was asked for: `code`, `title`, `detail`, `status`, `retryAfter`. */
export class Refused extends Error {
  constructor(problem, status, retryAfter) {
    super(problem.detail ?? problem.title);
    Object.assign(this, { code: problem.code, title: problem.title, detail: problem.detail, status, retryAfter });
  }
}

/** Nobody answered. */
export class Unreachable extends Error {}

/** The browser was given a file and cannot read it. */
export class Unreadable extends Error {
  title = "The file cannot be read any more";

  constructor({ name }) {
    super(`${name} was changed, moved or deleted after it was chosen, or is a folder. Choose it again.`);
  }
}

/** Dispatches `asked` when the server wants a key, and `opened` when it was given one. */
export const door = new EventTarget();

/** Try again once that may help: where a key was missing when there is one, else after so many milliseconds. */
export function later(error, retry, pause) {
  if (error instanceof Refused && error.status === 401) door.addEventListener("opened", () => retry(), { once: true });
  else setTimeout(retry, pause);
}

/** The whole answer, read `as` "json", "text" or "arrayBuffer"; half of one is none. Rejects with Refused or Unreachable. */
async function ask(path, as, options = {}) {
  let response;
  let body;
  try {
    response = await fetch(path, { ...options, cache: "no-store" });
    body = await response[response.ok ? as : "text"]();
  } catch {
    throw new Unreachable(AWAY);
  }
  if (!response.ok) throw refusal(response.status, body, response.headers.get("Retry-After"));
  return body;
}

function refusal(status, body, retryAfter) {
  if (status === 502 || status === 504) return new Unreachable(AWAY); // a proxy's, that has nobody behind it
  if (status === 401) door.dispatchEvent(new Event("asked"));
  let problem;
  try {
    problem = JSON.parse(body);
  } catch {
    problem = {
      title: `The server answered ${status}`,
      detail: `The server answered ${status} without saying why.`,
      code: "",
    };
  }
  return new Refused(problem, status, Number(retryAfter) || null);
}

/** Where arrays may come: as JSON they would be three times as large. */
const packed = async (path) => decode(await ask(path, "arrayBuffer", { headers: { Accept: "application/msgpack" } }));

export const limits = () => ask("/v1/limits", "json");
export const models = () => ask("/v1/models", "json");
export const cancel = (id) => ask(`/v1/jobs/${encodeURIComponent(id)}`, "text", { method: "DELETE" });
export const alive = () => ask("/health/live", "text");

/** An Idempotency-Key that nobody else has. `crypto.randomUUID` would do, but by plain HTTP a browser has none. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Send a file. `options` are the form fields beside it; `onProgress` gets the share that has left, 0 to 1.
 * Returns {promise of the job, abort()}; the promise rejects with Refused, Unreachable, Unreadable or an AbortError. What has
 * left as a whole becomes a job whoever listens, and abort() leaves it its answer: that names the job.
 */
export function submit(file, options, key, onProgress = () => {}) {
  const form = new FormData();
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest(); // fetch tells nothing of an upload's progress
  let sent = false;
  const promise = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.upload.onload = () => (sent = true);
    request.onload = () =>
      request.status < 300
        ? resolve(JSON.parse(request.responseText))
        : reject(refusal(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    request.onerror = async () => {
      const first = await file.slice(0, 1).arrayBuffer().catch(() => null); // the browser does not say which end failed
      reject(first ? new Unreachable(AWAY) : new Unreadable(file));
    };
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"));
    request.open("POST", "/v1/jobs");
    request.setRequestHeader("Idempotency-Key", key); // asked again after a lost answer, it is the same job
    request.send(form);
  });
  return { promise, abort: () => sent || request.abort() };
}

/** A job; one that has succeeded comes with its `result`. */
export async function job(id) {
  const { result, ...rest } = await packed(`/v1/jobs/${encodeURIComponent(id)}`);
  return { ...rest, result: result && unpack(result) };
}

/** The result of a job alone. */
export const result = async (id) => unpack(await packed(`/v1/jobs/${encodeURIComponent(id)}/result`));

/** A result, its arrays as Matrix. */
function unpack(tree) {
  const mapped = (entries, read) =>
    new Map(Object.entries(entries ?? {}).map(([name, packed]) => [name, read(packed)]));
  const optional = (packed, read) => (packed ? read(packed) : null);
  return {
    model: tree.model,
    predictions: tree.predictions,
    duration: tree.duration,
    sample_rate: tree.sample_rate,
    combined: tree.combined,
    window: tree.window,
    windows: tree.windows,
    spectrogram: optional(tree.full_spectrogram ?? tree.spectrogram, matrix), // Matrix, dB, of the whole sound
    cam: optional(tree.cam, matrix), // Matrix, 0 to 1, of the window `window`
    waveform: optional(tree.waveform, matrix), // Matrix of two rows: minimum and maximum of each stretch
    embedding: optional(tree.embedding, floats),
    maps: mapped(tree.maps, matrix), // layer -> Matrix, channel means of the window `window`
    channels: mapped(tree.channels, channels), // layer -> [Matrix], where a layer was asked for
  };
}
