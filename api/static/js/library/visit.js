// Keeps the sounds of a visit and their results in this browser, so that a reload, Back or another tab finds them again: the
// latest ones, up to LIMIT bytes, for DAYS days.

import { h, byId, button } from "../view/dom.js";
import { formatBytes } from "../view/format.js";
import { library } from "./library.js";
import { Sound } from "./sound.js";
import { Matrix } from "../signal/matrix.js";
import { deleteRecord, deleteRecords, loadRecords, storeRecord } from "./storage.js";
import { t } from "../words.js";

/** @import { Result } from "../server/types.js" */
/** @import { SoundRecord, VersionRecord } from "./storage.js" */

const LIMIT = 200_000_000; // bytes
const DAYS = 7;
const PAUSE = 400; // milliseconds: changes within that time are stored together
const PATIENCE = 10_000; // milliseconds that the page waits for the database; it mostly takes a few

/** What is stored, by the key of the sound. @type {Map<string, {bytes: number, state: unknown[]}>} */
const stored = new Map();
/** Sounds that will be stored. @type {Map<Sound, number>} */
const timers = new Map();
const channel = "BroadcastChannel" in window ? new BroadcastChannel("otoscope") : null;

/**
 * Bring back what was kept, and keep what is added from now on.
 * @param {HTMLElement} root  of the note and the button to forget
 */
export async function keepVisit(root) {
  const note = h("p", {
    class: "hint",
    text: t("visit.note", { size: formatBytes(LIMIT), days: DAYS }),
  });
  root.replaceChildren(note, button(t("visit.forget"), "close", askToForget, { class: "quiet" }));
  const late = new Promise((resolve) => setTimeout(() => resolve([]), PATIENCE));
  /** @type {SoundRecord[]} */
  const records = await Promise.race([loadRecords(), late]);
  const oldest = Date.now() - DAYS * 86_400_000;
  const fresh = records.filter((record) => record.stored > oldest).sort((a, b) => b.position - a.position);
  for (const { key } of records.filter((record) => record.stored <= oldest)) deleteRecord(key);
  const sounds = fresh.map(revive);
  sounds.forEach((sound, i) => stored.set(sound.key, { bytes: fresh[i].bytes, state: stateOf(sound) }));
  library.restore(sounds);
  const show = () => (root.hidden = library.sounds.every((sound) => sound.example || isWithoutResult(sound)));
  show();
  library.on("list", () => {
    show();
    const kept = new Set(library.sounds.map(({ key }) => key));
    for (const key of stored.keys()) if (!kept.has(key)) forget(key);
    for (const sound of library.sounds) if (!stored.has(sound.key)) schedule(sound);
  });
  library.on("change", (sound) => {
    show();
    schedule(sound.root);
  });
  addEventListener("pagehide", () => [...timers.keys()].forEach(store));
  channel?.addEventListener("message", () => library.clear());
}

function askToForget() {
  const count = library.sounds.filter(({ example }) => !example).length;
  if (!confirm(t("visit.confirm", { count }))) return;
  library.clear();
  stored.clear();
  deleteRecords();
  channel?.postMessage("forget");
  byId("upload").querySelector("button")?.focus();
}

/** @param {string} key */
function forget(key) {
  stored.delete(key);
  deleteRecord(key);
}

/** @param {Sound} sound */
const isWithoutResult = ({ ended, result }) => ended && !result;

/** @param {Sound} sound */
function schedule(sound) {
  if (!timers.has(sound)) timers.set(sound, setTimeout(() => store(sound), PAUSE));
}

/**
 * Store a sound; where there is no room left, the oldest ones are forgotten. A sound that ended without a result is not kept.
 * @param {Sound} sound
 */
async function store(sound) {
  clearTimeout(timers.get(sound));
  timers.delete(sound);
  if (!library.sounds.includes(sound) || sound.example) return;
  const { key } = sound;
  if (isWithoutResult(sound)) return forget(key);
  const state = stateOf(sound);
  const before = stored.get(key);
  if (before && state.length === before.state.length && state.every((value, i) => value === before.state[i])) return;
  const record = recordOf(sound);
  if (record.bytes > LIMIT) return forget(key);
  stored.set(key, { bytes: record.bytes, state });
  let total = [...stored.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  for (const old of [...library.sounds].reverse()) {
    if (total <= LIMIT) break;
    const found = stored.get(old.key);
    if (!found || old === sound) continue;
    total -= found.bytes;
    forget(old.key);
  }
  if (!(await storeRecord(record))) stored.delete(key); // no room on the disk
}

/**
 * What is stored of a sound changes with these.
 * @param {Sound} sound
 * @returns {unknown[]}
 */
function stateOf(sound) {
  const { edits, showsOriginal, idempotencyKey } = sound;
  const all = [sound, ...sound.versions].filter(({ pending }) => !pending);
  return [edits, showsOriginal, idempotencyKey, ...all.flatMap(({ file, job, result, share }) => [file, job?.id, result, share?.id])];
}

/**
 * @param {Sound} sound
 * @returns {SoundRecord}
 */
function recordOf(sound) {
  const { key, number, linkedId, idempotencyKey, edits, showsOriginal } = sound;
  /** @type {(one: Sound) => VersionRecord} */
  const one = ({ name, file, job, result, share }) => ({ name, file, job, result, share: share?.id ? share : null });
  const versions = sound.versions.filter(({ pending }) => !pending).map(one);
  const bytes = [sound, ...versions].reduce((sum, { file, result }) => sum + (file?.size ?? 0) + bytesOf(result), 0);
  const state = { key, stored: Date.now(), position: number, bytes, linkedId, idempotencyKey };
  return { ...one(sound), ...state, versions, edits, showsOriginal };
}

/** @param {Result | null} result */
function bytesOf(result) {
  if (!result) return 0;
  const { spectrogram, detail, cam, waveform, maps } = result;
  return [spectrogram, detail, cam, waveform, ...maps.values()].reduce((sum, matrix) => sum + 4 * (matrix?.values.length ?? 0), 10_000);
}

/**
 * @param {SoundRecord} record
 * @returns {Sound}
 */
function revive(record) {
  const { key, linkedId, idempotencyKey, edits, showsOriginal } = record;
  const sound = new Sound({ name: record.name, file: record.file, linkedId });
  Object.assign(sound, { key, idempotencyKey, edits, showsOriginal }, progressOf(record));
  sound.versions = record.versions.map((version) => {
    const one = new Sound({ name: version.name, file: version.file, original: sound });
    return Object.assign(one, { pending: false }, progressOf(version));
  });
  return sound;
}

/**
 * @param {VersionRecord} record
 * @returns {Partial<Sound>}
 */
function progressOf({ job, result: packed, share = null }) {
  const result = packed && reviveResult(packed);
  return { job, result, view: result, share, phase: result ? "succeeded" : "waiting" };
}

/**
 * A result as the database returns it: its matrices are plain objects.
 * @param {Result} result
 * @returns {Result}
 */
function reviveResult(result) {
  /** @type {<Value extends Matrix | null | undefined>(matrix: Value) => Value} */
  const matrix = (one) => /** @type {any} */ (one && new Matrix(one.rows, one.columns, one.values));
  const { spectrogram, detail, cam, waveform, maps } = result;
  return {
    ...result,
    spectrogram: matrix(spectrogram),
    detail: matrix(detail),
    cam: matrix(cam),
    waveform: matrix(waveform),
    maps: new Map([...maps].map(([layer, one]) => [layer, matrix(one)])),
  };
}
