// Records the microphone as a WAV file: uncompressed, since the formats of MediaRecorder differ from browser to browser.

import { HEADER, toInt16, wavHeader } from "./wav.js";

/** Files that were recorded on this page and exist nowhere else. @type {WeakSet<File>} */
export const recordings = new WeakSet();

/** What is said where the microphone cannot be opened, by the name of the DOMException. @type {Record<string, string>} */
const MICROPHONE_ERRORS = {
  NotAllowedError: "The microphone was not allowed. You can change that in the browser's address bar.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "The microphone is in use by another program.",
};

/**
 * @typedef {object} Recording
 * @property {() => void} stop
 * @property {() => void} discard
 * @property {Promise<File | null>} finished  null when it was discarded; rejects with an Error that can be shown
 */

/**
 * Start recording. It stops at the first of two limits.
 * @param {object} options
 * @param {number} options.seconds  of sound
 * @param {number} options.bytes  of the file
 * @param {(peak: number, seconds: number) => void} options.onLevel  called several times a second
 * @returns {Promise<Recording>} rejects with an Error that can be shown
 */
export async function record({ seconds, bytes, onLevel }) {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("Browsers allow the microphone on secure pages only: open this page over https or on localhost.");
  }
  /** @type {MediaStream} */
  let stream;
  try {
    // Processing that makes speech clearer would remove what is to be classified here.
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch (error) {
    const { name, message } = /** @type {DOMException} */ (error);
    throw new Error(MICROPHONE_ERRORS[name] ?? `The microphone cannot be used: ${message}`);
  }
  const context = new AudioContext();
  function release() {
    for (const track of stream.getTracks()) track.stop();
    context.close();
  }
  try {
    await context.audioWorklet.addModule("/static/js/recorder-worklet.js");
  } catch {
    release();
    throw new Error("The recording cannot start: the server does not respond.");
  }
  const source = context.createMediaStreamSource(stream);
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
    if (length === 0) reject(new Error("Nothing was recorded."));
    else resolve(wav(blocks, length, context.sampleRate));
  }
  node.port.onmessage = (/** @type {MessageEvent<Float32Array>} */ { data }) => {
    const block = data.subarray(0, limit - length);
    blocks.push(block);
    length += block.length;
    onLevel(
      block.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0),
      length / context.sampleRate,
    );
    if (length === limit) stop();
  };
  stream.getTracks()[0].addEventListener("ended", stop); // unplugged, or no longer allowed
  source.connect(node);
  return {
    stop,
    discard: () => {
      close();
      resolve(null);
    },
    finished,
  };
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
  const file = new File([wavHeader(1, length, rate), samples.buffer], `Recording ${now}.wav`, { type: "audio/wav" });
  recordings.add(file);
  return file;
}
