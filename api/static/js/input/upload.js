// Ways to add a sound: drop, choose, record, or try one that comes with the page. The server's limits are shown before upload.

import * as api from "../server/api.js";
import { button, h } from "../view/dom.js";
import { clock, formatBytes, formatDuration } from "../view/format.js";
import { levelMeter } from "./level-meter.js";
import { library } from "../library/library.js";
import { loadStyle } from "../view/load-style.js";
import { loadPart, reachability } from "../server/reachability.js";
import { record } from "./recorder.js";
import { samples } from "../library/samples.js";
import { t } from "../words.js";

/** @import { ErrorInfo, Limits } from "../server/types.js" */

/** Null until the server has sent them. @type {Limits | null} */
let limits = null;
/** @type {(limits: Limits) => void} */
let onLimits = () => {};
/** The limits, once the server has sent them. @type {Promise<Limits>} */
export const serverLimits = new Promise((resolve) => (onLimits = resolve));

/** For a file dialog: `audio/*`, and the extensions that the server reads. */
export const acceptedTypes = () => ["audio/*", ...(limits?.extensions ?? [])].join(",");

/**
 * Fill the panel and listen for drops anywhere on the page.
 * @param {HTMLElement} root
 */
export function mountUpload(root) {
  const input = h("input", {
    type: "file",
    accept: acceptedTypes(),
    multiple: true,
    hidden: true,
    "aria-label": t("upload.files"),
  });
  const hint = h("p", { class: "hint", text: t("upload.loading") });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const recordButton = button(t("upload.record"), "mic", () => startRecording());
  const liveButton = button(t("live.button"), "wave", () => startLive());
  const buttons = h(
    "div",
    { class: "buttons" },
    button(t("upload.choose"), "file", () => input.click(), { class: "primary" }),
    recordButton,
    liveButton,
  );
  const panel = h(
    "div",
    { class: "panel drop" },
    h(
      "div",
      { class: "intro" },
      h("h1", { text: t("upload.title") }),
      h("p", {
        class: "muted",
        text: t("upload.text"),
      }),
    ),
    input,
    buttons,
    h(
      "div",
      { class: "samples" },
      h("span", { class: "hint", text: t("upload.samples") }),
      samples.map(({ name, file }) =>
        h("button", { type: "button", text: t(name), on: { click: ({ currentTarget }) => trySample(file, currentTarget) } }),
      ),
    ),
    problem,
    hint,
  );
  root.replaceChildren(panel);

  input.addEventListener("change", () => {
    addFiles(input.files ?? []);
    input.value = ""; // the same file may be chosen again
  });
  acceptDrops(panel, addFiles);
  reachability.on("reachable", () => problem.textContent === t("recorder.no_server") && showProblem(""));
  loadLimits(hint, input);

  /** @param {string} text  empty: none */
  function showProblem(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  /**
   * Fetch a sample and add it, once the server responds. Its button is busy meanwhile, and clicks on it add nothing.
   * @param {string} file
   * @param {EventTarget | null} pressed
   */
  async function trySample(file, pressed) {
    if (!(pressed instanceof HTMLElement) || pressed.ariaBusy === "true") return;
    showProblem("");
    pressed.ariaBusy = "true";
    const address = new URL(`../../sounds/${file}`, import.meta.url).href;
    /** @type {Blob | null} */
    let sound = null;
    try {
      while (!sound) sound = await api.getSound(address).catch(waitIfUnreachable);
      addFiles([new File([sound], file, { type: "audio/flac" })]);
    } catch (error) {
      showProblem(error instanceof Error ? error.message : String(error));
    } finally {
      pressed.ariaBusy = null;
    }
  }

  async function startRecording() {
    showProblem("");
    recordButton.disabled = true;
    const meter = levelMeter();
    const time = h("span", { class: "number", text: clock(0) });
    try {
      const loaded = await loadPart(Promise.all([import("./recording-wave.js"), import("./microphones.js")]));
      if (!loaded) return showProblem(t("recorder.no_server"));
      const [{ recordingWave }, { microphoneList }] = loaded;
      const wave = recordingWave();
      const recording = await record({
        ...recordingLimits(),
        onBlock: wave.add,
        onLevel: (peak, seconds) => {
          meter.show(peak);
          time.textContent = clock(seconds);
        },
      });
      const stop = button(t("upload.stop"), "stop", () => recording.stop(), { class: "primary" });
      const discard = button(t("upload.discard"), "close", () => recording.discard(), { quiet: true });
      const device = microphoneList(recording);
      const ends = h("div", { class: "ends" }, stop, discard);
      const row = h("div", { class: "recording" }, h("span", { class: "dot" }), meter.element, time, ends, wave.element, device);
      buttons.hidden = true;
      buttons.after(row);
      stop.focus();
      try {
        const file = await recording.finished;
        if (file) addFiles([file]);
      } finally {
        row.remove();
        buttons.hidden = false;
      }
    } catch (error) {
      showProblem(error instanceof Error ? error.message : String(error));
    } finally {
      recordButton.disabled = false;
    }
  }

  async function startLive() {
    showProblem("");
    liveButton.disabled = true;
    try {
      const loaded = await loadPart(Promise.all([import("../live/panel.js"), loadStyle("live")]));
      if (!loaded) return showProblem(t("recorder.no_server"));
      const file = await loaded[0].listenLive(recordingLimits());
      if (file) addFiles([file]);
    } catch (error) {
      showProblem(error instanceof Error ? error.message : String(error));
    } finally {
      liveButton.disabled = false;
    }
  }

  /** @param {Iterable<File>} files */
  function addFiles(files) {
    showProblem("");
    const accepted = [];
    let refused = null;
    for (const file of files) {
      const error = limitError(file);
      if (error) refused = library.refuse(file, error);
      else accepted.push(file);
    }
    if (accepted.length) library.add(accepted);
    else if (refused) library.select(refused);
  }
}

/**
 * Where the server does not respond, wait until it does, which the page shows. Throws every other error again.
 * @param {unknown} error
 * @returns {Promise<null>}
 */
async function waitIfUnreachable(error) {
  if (!(error instanceof api.Unreachable)) throw error;
  const back = new Promise((resolve) => reachability.on("reachable", resolve, { once: true }));
  reachability.waitForServer();
  await back;
  return null;
}

/** What the server accepts of a recording. */
const recordingLimits = () => ({
  seconds: limits?.max_seconds ?? 600,
  bytes: limits?.max_upload_bytes ?? 2 ** 25,
});

/**
 * The error that the server would respond with, or null.
 * @param {File} file
 * @returns {ErrorInfo | null}
 */
function limitError(file) {
  if (file.size === 0) return { code: "audio_empty", title: t("upload.empty"), detail: t("upload.empty.detail", { name: file.name }) };
  if (limits && file.size > limits.max_upload_bytes) {
    const [size, most] = [file.size, limits.max_upload_bytes].map(formatBytes);
    return {
      code: "payload_too_large",
      title: t("upload.too_large"),
      detail: t("upload.too_large.detail", { name: file.name, size, most }),
    };
  }
  return null;
}

/**
 * @param {HTMLElement} hint
 * @param {HTMLInputElement} input
 */
async function loadLimits(hint, input) {
  try {
    limits = await api.getLimits();
  } catch (error) {
    const unauthorized = error instanceof api.Refused && error.status === 401;
    hint.textContent = unauthorized ? error.title : t("common.no_response_now");
    api.retryLater(error, () => loadLimits(hint, input), 3_000);
    return;
  }
  onLimits(limits);
  hint.textContent = t("upload.limits", {
    formats: limits.formats.join(", "),
    size: formatBytes(limits.max_upload_bytes),
    seconds: formatDuration(limits.max_seconds),
    channels: limits.max_channels,
    kept: formatDuration(limits.result_ttl),
  });
  input.accept = acceptedTypes();
}

/**
 * Accept files that are dropped anywhere; the browser never leaves the page for a file.
 * @param {HTMLElement} panel
 * @param {(files: Iterable<File>) => void} addFiles
 */
function acceptDrops(panel, addFiles) {
  let depth = 0; // dragenter and dragleave come for every child
  /** @param {number} now */
  const setDepth = (now) => {
    depth = now;
    panel.classList.toggle("over", depth > 0);
  };
  /** The files that are dragged, or null. @param {DragEvent} event */
  const transferOf = ({ dataTransfer }) => (dataTransfer?.types.includes("Files") ? dataTransfer : null);
  addEventListener("dragenter", (event) => {
    if (transferOf(event)) setDepth(depth + 1);
  });
  addEventListener("dragleave", (event) => {
    if (transferOf(event)) setDepth(Math.max(0, depth - 1));
  });
  addEventListener("dragover", (event) => {
    const transfer = transferOf(event);
    if (!transfer) return;
    event.preventDefault();
    transfer.dropEffect = "copy";
  });
  addEventListener("drop", (event) => {
    const transfer = transferOf(event);
    if (!transfer) return;
    event.preventDefault();
    setDepth(0);
    addFiles(transfer.files);
  });
}
