// The WebSocket of a live stream: sends the microphone's samples, emits the answers, and connects again when it is lost.

import { matrix } from "../signal/matrix.js";
import { inWords } from "../server/errors.js";
import { decode } from "../server/msgpack.js";
import { toInt16 } from "../signal/wav.js";

/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Detection } from "../server/types.js" */

/**
 * @typedef {object} StreamOpened  see `otoscope.types.StreamOpened`
 * @property {string} model
 * @property {number} window_seconds
 *
 * @typedef {object} LiveAnswer    see `otoscope.types.StreamAnswer`
 * @property {number} start        seconds
 * @property {number} end          seconds
 * @property {{class: string, confidence: number}[]} predictions
 * @property {"named" | "unsure" | "unknown" | "silent" | null} verdict
 * @property {{peak_dbfs: number | null} | null} level
 * @property {Detection[]} began
 * @property {Detection[]} ended
 * @property {number} dropped      windows
 * @property {number} latency      seconds
 * @property {{code: string, title: string, detail: string} | null} error
 */

const PAUSES = [500, 1_000, 2_000, 5_000]; // milliseconds before an attempt to connect
const BEHIND = 4_000; // our own close code
const RETRIED = [BEHIND, 1001, 1005, 1006, 1011, 1012, 1013, 4429, 4500, 4503]; // close codes after which another stream may succeed
const MOST_BUFFERED = 1_000_000; // bytes that the connection has not taken: beyond that, sound is left out

/**
 * @typedef {object} Listener
 * @property {(opened: StreamOpened) => void} onOpen
 * @property {(answer: LiveAnswer, maps: Map<string, Matrix>) => void} onAnswer  times are those of the recording
 * @property {(problem: string | null) => void} onTrouble  null: the connection has been lost and is tried again
 */

export class LiveStream {
  /** @type {WebSocket | null} */
  #socket = null;
  #open = false;
  #closed = false;
  #failures = 0;
  #recorded = 0; // samples
  #offset = 0; // seconds of the recording before the first sample of this connection
  /** @type {number | undefined} */
  #timer;
  /** The last message of the server, if it said why it closes. */
  #problem = "";

  /**
   * @param {number} rate  Hz
   * @param {string} model  empty: the server's default
   * @param {Listener} listener
   */
  constructor(rate, model, listener) {
    this.rate = rate;
    this.model = model;
    this.listener = listener;
    this.#connect();
  }

  /** @param {Float32Array} samples */
  send(samples) {
    this.#recorded += samples.length;
    const socket = this.#socket;
    if (!this.#open || socket?.readyState !== WebSocket.OPEN) return;
    if (socket.bufferedAmount > MOST_BUFFERED) return socket.close(BEHIND); // a new stream begins with what is heard now
    socket.send(Int16Array.from(samples, toInt16));
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
  }

  #connect() {
    const query = new URLSearchParams({ rate: String(this.rate), include: "maps" });
    if (this.model) query.set("model", this.model);
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/v1/stream?${query}`);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#problem = "";
    socket.onmessage = ({ data }) => this.#receive(typeof data === "string" ? JSON.parse(data) : decode(data));
    socket.onclose = ({ code }) => {
      this.#open = false;
      if (this.#closed || socket !== this.#socket) return;
      if (!RETRIED.includes(code)) return this.listener.onTrouble(this.#problem || `(${code})`);
      this.listener.onTrouble(null);
      const pause = PAUSES[Math.min(this.#failures++, PAUSES.length - 1)];
      this.#timer = setTimeout(() => this.#connect(), pause);
    };
  }

  /** @param {any} message */
  #receive(message) {
    if (this.#closed) return;
    if (message.type === "opened") {
      this.#failures = 0;
      this.#offset = this.#recorded / this.rate;
      this.#open = true;
      this.listener.onOpen(message);
    } else if (message.type === "error") {
      this.#problem = inWords(message).detail;
    } else if (message.type === "answer") {
      const { maps, ...answer } = message;
      const read = new Map();
      for (const [layer, packed] of Object.entries(maps ?? {})) read.set(layer, matrix(packed));
      const moved = /** @type {LiveAnswer} */ ({ ...answer, start: answer.start + this.#offset, end: answer.end + this.#offset });
      for (const one of [...moved.began, ...moved.ended]) {
        one.start += this.#offset;
        one.end += this.#offset;
      }
      this.listener.onAnswer(moved, read);
    }
  }
}
