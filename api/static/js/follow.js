// A job, followed to its end.

import { job, later, Refused } from "./server.js";

const STREAMS = 3; // a browser opens six connections to a host, and a stream keeps one
/** Statuses after which nothing changes. */
export const FINAL = ["succeeded", "failed", "cancelled"];
let streams = 0;

/**
 * Follow a job to its end. `onJob` gets every state, the last one final; `onLost` and `onBack` tell of the connection,
 * `onGone` that the server has forgotten the job. The server tells by its event stream, which the browser resumes after the
 * last event that it saw; where many jobs are followed the later ones are asked about until a stream is free.
 * Returns a function that stops it.
 */
export function follow(id, { onJob, onLost, onBack, onGone }) {
  const path = `/v1/jobs/${encodeURIComponent(id)}/events?include_result=false`;
  let source = null;
  let timer = null;
  let lost = false;
  let stopped = false;

  function go() {
    if (streams < STREAMS) open();
    else look(1_000);
  }

  function open() {
    streams += 1;
    source = new EventSource(path);
    source.onopen = found;
    source.addEventListener("status", (event) => {
      const now = JSON.parse(event.data);
      if (!FINAL.includes(now.status)) onJob(now); // an end is told again, as the `result`
    });
    source.addEventListener("result", (event) => {
      stop();
      onJob(JSON.parse(event.data));
    });
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return lose(); // it tries again by itself
      close();
      look(2_000);
    };
  }

  function close() {
    if (source) streams -= 1;
    source?.close();
    source = null;
  }

  /** Ask what has become of the job, and go on from there after so many milliseconds. */
  async function look(pause) {
    try {
      const now = await job(id);
      if (stopped) return;
      found();
      onJob(now);
      if (FINAL.includes(now.status)) return;
    } catch (error) {
      if (stopped) return;
      if (error instanceof Refused && [403, 404, 410].includes(error.status)) return onGone(error);
      if (error instanceof Refused && error.status === 401) return later(error, () => stopped || go());
      lose();
    }
    timer = setTimeout(go, pause);
  }

  function found() {
    if (lost) onBack();
    lost = false;
  }

  function lose() {
    if (!lost) onLost();
    lost = true;
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    close();
  }

  go();
  return stop;
}
