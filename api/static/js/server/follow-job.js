// Follows a job to its end.

import { getJob, Refused, retryLater } from "./api.js";

/** @import { JobStatus, JobWithResult } from "./types.js" */

const MAX_STREAMS = 3; // a browser opens six connections to a host, and a stream occupies one

/** Statuses after which nothing changes. */
const FINAL = ["succeeded", "failed", "cancelled"];

/** @param {JobStatus} status */
export const isFinal = (status) => FINAL.includes(status);

let streams = 0; // open now

/**
 * Follow a job to its end by the server's event stream, which the browser resumes after the last event that it received.
 * Where many jobs are followed, the later ones are polled until a stream is free.
 * @param {string} id
 * @param {object} listeners
 * @param {(job: JobWithResult) => void} listeners.onJob  gets every state; the last one is final
 * @param {() => void} listeners.onDisconnect
 * @param {() => void} listeners.onReconnect
 * @param {(error: Refused) => void} listeners.onGone  the server no longer has the job
 * @returns {() => void} stops following
 */
export function followJob(id, { onJob, onDisconnect, onReconnect, onGone }) {
  const path = `/v1/jobs/${encodeURIComponent(id)}/events?include_result=false`;
  /** @type {EventSource | null} */
  let source = null;
  /** @type {number | undefined} */
  let timer;
  let disconnected = false;
  let stopped = false;

  function start() {
    if (streams < MAX_STREAMS) openStream();
    else poll(1_000);
  }

  function openStream() {
    streams += 1;
    const stream = (source = new EventSource(path));
    stream.onopen = reconnect;
    stream.addEventListener("status", (event) => {
      const job = JSON.parse(event.data);
      if (!isFinal(job.status)) onJob(job); // a final state comes again as the `result` event
    });
    stream.addEventListener("result", (event) => {
      stop();
      onJob(JSON.parse(event.data));
    });
    stream.onerror = () => {
      if (stream.readyState !== EventSource.CLOSED) return disconnect(); // the browser reconnects
      closeStream();
      poll(2_000);
    };
  }

  function closeStream() {
    if (!source) return;
    streams -= 1;
    source.close();
    source = null;
  }

  /**
   * Get the state of the job, and continue with that after a pause.
   * @param {number} pause  milliseconds
   */
  async function poll(pause) {
    try {
      const job = await getJob(id);
      if (stopped) return;
      reconnect();
      onJob(job);
      if (isFinal(job.status)) return;
    } catch (error) {
      if (stopped) return;
      if (error instanceof Refused && [403, 404, 410].includes(error.status)) return onGone(error);
      if (error instanceof Refused && error.status === 401) return retryLater(error, () => stopped || start());
      disconnect();
    }
    timer = setTimeout(start, pause);
  }

  function reconnect() {
    if (disconnected) onReconnect();
    disconnected = false;
  }

  function disconnect() {
    if (!disconnected) onDisconnect();
    disconnected = true;
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    closeStream();
  }

  start();
  return stop;
}
