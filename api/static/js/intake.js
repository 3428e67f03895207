// Ways in: drop, choose, record, try a sound that comes with the page. Limits are the server's and are told before upload.

import { button, h } from "./dom.js";
import { bytes, clock, span } from "./format.js";
import { library } from "./library.js";
import { record } from "./recorder.js";
import { samples } from "./samples.js";
import * as server from "./server.js";

let limits = null;

/** Fill the panel and listen for drops anywhere on the page. */
export function mountIntake(root) {
  const input = h("input", {
    type: "file",
    accept: "audio/*",
    multiple: true,
    hidden: true,
    "aria-label": "Sound files",
  });
  const hint = h("p", { class: "hint", text: "Reading what the server accepts…" });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const recordButton = button("Record", "mic", () => startRecording());
  const ways = h(
    "div",
    { class: "ways" },
    button("Choose files", "file", () => input.click(), { class: "primary" }),
    recordButton,
  );
  const panel = h(
    "div",
    { class: "panel drop" },
    h(
      "div",
      { class: "lead" },
      h("h1", { text: "What does it hear?" }),
      h("p", {
        class: "muted",
        text: "Drop a sound here, choose a file, or record one. It goes to this server and nowhere else.",
      }),
    ),
    input,
    ways,
    h(
      "div",
      { class: "samples" },
      h("span", { class: "hint", text: "Or try:" }),
      samples.map(({ name, file }) =>
        h("button", { type: "button", text: name, on: { click: () => trySample(file) } }),
      ),
    ),
    problem,
    hint,
  );
  root.replaceChildren(panel);

  input.addEventListener("change", () => {
    take(input.files);
    input.value = ""; // the same file may be chosen again
  });
  drops(panel, take);
  readLimits(hint, input);

  function say(text) {
    problem.textContent = text;
    problem.hidden = !text;
  }

  async function trySample(file) {
    say("");
    try {
      const response = await fetch(`/static/sounds/${file}`);
      if (!response.ok) throw new Error();
      take([new File([await response.blob()], file, { type: "audio/flac" })]);
    } catch {
      say("The server does not answer.");
    }
  }

  async function startRecording() {
    say("");
    recordButton.disabled = true;
    const level = h("div", {});
    const meter = h(
      "div",
      {
        class: "level",
        role: "meter",
        "aria-label": "Level",
        "aria-valuemin": 0,
        "aria-valuemax": 1,
        "aria-valuenow": "0.00",
      },
      level,
    );
    const time = h("span", { class: "number", text: "0:00.0" });
    let session = null;
    try {
      session = await record({
        seconds: limits?.max_seconds ?? 600,
        bytes: limits?.max_upload_bytes ?? 2 ** 25,
        onLevel: (peak, seconds) => {
          level.style.transform = `scaleX(${Math.min(1, peak)})`;
          meter.classList.toggle("loud", peak >= 0.98);
          meter.setAttribute("aria-valuenow", peak.toFixed(2));
          time.textContent = clock(seconds);
        },
      });
    } catch (error) {
      recordButton.disabled = false;
      say(error.message);
      return;
    }
    const stop = button("Stop", "stop", () => session.stop(), { class: "primary" });
    const discard = button("Discard", "close", () => session.discard(), { quiet: true });
    const row = h("div", { class: "recording" }, h("span", { class: "dot" }), meter, time, stop, discard);
    ways.hidden = true;
    ways.after(row);
    stop.focus();
    try {
      const file = await session.finished;
      if (file) take([file]);
    } catch (error) {
      say(error.message);
    } finally {
      row.remove();
      ways.hidden = false;
      recordButton.disabled = false;
    }
  }

  function take(files) {
    say("");
    const fitting = [];
    for (const file of files) {
      const [title, detail] = objection(file) ?? [];
      if (title) library.refuse(file, title, detail);
      else fitting.push(file);
    }
    if (fitting.length) library.add(fitting);
  }
}

/** Why a file need not be sent, or null. */
function objection(file) {
  if (file.size === 0) return ["The file is empty", `${file.name} has no bytes in it.`];
  if (limits && file.size > limits.max_upload_bytes) {
    return [
      "The file is too large",
      `${file.name} is ${bytes(file.size)}; this server takes ${bytes(limits.max_upload_bytes)} at most.`,
    ];
  }
  return null;
}

async function readLimits(hint, input) {
  try {
    limits = await server.limits();
  } catch (error) {
    hint.textContent = error.status === 401 ? error.title : "The server does not answer.";
    server.later(error, () => readLimits(hint, input), 3_000);
    return;
  }
  hint.textContent =
    `Drop files anywhere: ${limits.formats.join(", ")}; up to ${bytes(limits.max_upload_bytes)}, ${span(limits.max_seconds)} ` +
    `and ${limits.max_channels} channels. The server forgets a result after ${span(limits.result_ttl)} and the sound at once.`;
  input.accept = ["audio/*", ...limits.extensions].join(",");
}

/** Files dropped anywhere are taken, and the page is never left for a file. */
function drops(panel, take) {
  let depth = 0; // dragenter and dragleave come for every child
  const over = (inside) => panel.classList.toggle("over", inside);
  const carries = (event) => [...event.dataTransfer.types].includes("Files");
  addEventListener("dragenter", (event) => {
    if (carries(event)) over((depth += 1) > 0);
  });
  addEventListener("dragleave", (event) => {
    if (carries(event)) over((depth = Math.max(0, depth - 1)) > 0);
  });
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    over((depth = 0) > 0);
    take(event.dataTransfer.files);
  });
}
