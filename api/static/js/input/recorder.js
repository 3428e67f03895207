// Records the microphone as a WAV file: uncompressed, since the formats of MediaRecorder differ from browser to browser.

import { HEADER, toInt16, wavHeader } from "../signal/wav.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";

/** Files that were recorded on this page and exist nowhere else. @type {WeakSet<File>} */
export const recordings = new WeakSet();

/** What is said where the microphone cannot be opened, by the name of the DOMException. @type {Record<string, string>} */
const MICROPHONE_ERRORS = {
  NotAllowedError: t("recorder.refused"),
  NotFoundError: t("recorder.none"),
  NotReadableError: t("recorder.busy"),
};

/**
 * @typedef {object} Recording
 * @property {() => void} stop
 * @property {() => void} discard
 * @property {string} device  id of the device that records
 * @property {(device: string) => Promise<void>} use  record with another device from now on; rejects where it cannot be opened
 * @property {Promise<File | null>} finished  null when it was discarded; rejects with an Error that can be shown
 */

/**
 * Start recording. It stops at the first of two limits.
 * @param {object} options
 * @param {number} options.seconds  of sound
 * @param {number} options.bytes  of the file
 * @param {(peak: number, seconds: number) => void} options.onLevel  called several times a second
 * @param {(samples: Float32Array, rate: number) => void} [options.onBlock]  gets every block of samples; the rate is in Hz
 * @returns {Promise<Recording>} rejects with an Error that can be shown
 */
export async function record({ seconds, bytes, onLevel, onBlock }) {
  let stream = await openMicrophone(settings.get("microphone"));
  const context = new AudioContext();
  function release() {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  }
  try {
    await context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
  } catch {
    release();
    throw new Error(t("recorder.no_server"));
  }
  let source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "recorder", {
    numberOfOutputs: 0,
    channelCount: 1,
    channelCountMode: "explicit",
  });
  const limit = Math.floor(Math.min(seconds * context.sampleRate, (bytes - HEADER) / 2)); // samples
  /** @type {Float32Array[]} */
  const blocks = [];
  let length = 0; // samples
  const { promise: finished, resolve, reject } = promiseWithResolvers();

  function close() {
    node.port.onmessage = null;
    source.disconnect();
    release();
  }
  function stop() {
    close();
    if (length === 0) reject(new Error(t("recorder.nothing")));
    else resolve(wav(blocks, length, context.sampleRate));
  }
  node.port.onmessage = (/** @type {MessageEvent<Float32Array>} */ { data }) => {
    const block = data.subarray(0, limit - length);
    blocks.push(block);
    length += block.length;
    onBlock?.(block, context.sampleRate);
    onLevel(
      block.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0),
      length / context.sampleRate,
    );
    if (length === limit) stop();
  };
  function connect() {
    stream.getTracks()[0].addEventListener("ended", stop); // unplugged, or no longer allowed; not where this page stops it
    source.connect(node);
  }
  connect();
  return {
    stop,
    get device() {
      return stream.getTracks()[0].getSettings().deviceId ?? "";
    },
    async use(device) {
      const next = await openMicrophone(device);
      if (context.state === "closed") return next.getTracks().forEach((track) => track.stop()); // the recording has ended
      source.disconnect();
      for (const track of stream.getTracks()) track.stop();
      stream = next;
      source = context.createMediaStreamSource(stream);
      connect();
    },
    discard: () => {
      close();
      resolve(null);
    },
    finished,
  };
}

/**
 * @param {string} device  its id, where it is there; empty: that of the browser
 * @returns {Promise<MediaStream>} rejects with an Error that can be shown
 */
async function openMicrophone(device) {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error(t("recorder.insecure"));
  // Processing that makes speech clearer would remove what is to be classified here.
  const processing = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
  /** @param {ConstrainDOMString} [deviceId] */
  const open = (deviceId) => navigator.mediaDevices.getUserMedia({ audio: { ...processing, deviceId } });
  try {
    // Chromium takes a device for sure where it must be that one; one that has been unplugged is replaced by the usual one.
    if (device) return await open({ exact: device }).catch((error) => (error.name === "OverconstrainedError" ? open() : Promise.reject(error)));
    return await open();
  } catch (error) {
    const { name, message } = /** @type {DOMException} */ (error);
    throw new Error(MICROPHONE_ERRORS[name] ?? t("recorder.failed", { message }));
  }
}

/** `Promise.withResolvers`, which older browsers do not have. */
function promiseWithResolvers() {
  /** @type {(file: File | null) => void} */
  let resolve = () => {};
  /** @type {(error: Error) => void} */
  let reject = () => {};
  /** @type {Promise<File | null>} */
  const promise = new Promise((...functions) => ([resolve, reject] = functions));
  return { promise, resolve, reject };
}

/**
 * A 16-bit mono WAV file.
 * @param {Float32Array[]} blocks
 * @param {number} length  samples in all blocks
 * @param {number} rate  Hz
 */
function wav(blocks, length, rate) {
  const samples = new Int16Array(length);
  let at = 0;
  for (const block of blocks) {
    for (const sample of block) samples[at++] = toInt16(sample);
  }
  const now = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  const file = new File([wavHeader(1, length, rate), samples.buffer], `${t("recorder.name", { now })}.wav`, { type: "audio/wav" });
  recordings.add(file);
  return file;
}
