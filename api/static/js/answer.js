// What the sound was taken for, how sure that is, and where the time went; before that, how far it is.

import { button, download, h, toast } from "./dom.js";
import { bars, certainty, level, origin, timings } from "./figures.js";
import { bytes, className, hertz, span } from "./format.js";
import { library } from "./library.js";
import { state } from "./list.js";
import { recordings } from "./recorder.js";
import { settings } from "./settings.js";

const FEW = 5; // classes shown at first

export function mountAnswer(root, { cards }) {
  let shown = null; // what is drawn: the same is not drawn twice
  let every = false; // all classes
  let progress = null; // {sound, element, update()}, while one is under way

  settings.watch("model", () => shown && root.firstChild && offerModel());

  function show(sound, card) {
    const now = [sound, sound.phase, sound.result, sound.file, card];
    if (sound.ended && now.every((part, i) => part === shown?.[i])) return retell(sound);
    if (shown?.[0] !== sound) every = false;
    const held = () => root.contains(document.activeElement);
    const before = held();
    shown = now;
    draw(sound, card);
    if (before && !held()) root.closest("[tabindex]").focus({ preventScroll: true }); // what had the focus is no more
  }

  function draw(sound, card) {
    if (sound.ended) progress = null;
    if (sound.phase === "succeeded") drawAnswer(sound, card);
    else if (sound.ended) drawEnd(sound);
    else drawProgress(sound);
  }

  /** The panel stays what it is while a sound is under way: a button that is being pressed must not be another. */
  function drawProgress(sound) {
    if (progress?.sound !== sound) {
      progress = buildProgress(sound);
      root.replaceChildren(progress.element);
    }
    progress.update();
  }

  function buildProgress(sound) {
    const phases = ["uploading", "queued", "running"];
    const steps = ["Upload", "Queue", "Network"].map((text) => h("li", { text }));
    const bar = h("progress", { max: 1, "aria-label": "Progress" });
    const words = h("p", { class: "muted number" });
    const header = heading(
      sound,
      button("Cancel", "stop", () => library.cancel(sound)),
    );
    const element = h(
      "section",
      { class: "panel", "aria-label": "Progress" },
      header,
      h("ol", { class: "steps" }, steps),
      bar,
      words,
    );
    function update() {
      const { phase, uploaded } = sound;
      const at = phases.indexOf(phase);
      const now = title(sound);
      if (!now.isEqualNode(header.firstChild)) header.firstChild.replaceWith(now);
      steps.forEach((step, i) => {
        step.classList.toggle("done", i < at);
        if (i === at) step.setAttribute("aria-current", "step");
        else step.removeAttribute("aria-current");
      });
      bar.hidden = phase === "waiting";
      if (phase === "uploading") bar.value = uploaded;
      else bar.removeAttribute("value");
      words.textContent = state(sound);
    }
    return { sound, element, update };
  }

  /** What has become of a cancelled sound is known a little later; its buttons stay what they are. */
  function retell(sound) {
    const words = root.querySelector(".why");
    if (words && words.textContent !== why(sound)) words.textContent = why(sound);
  }

  function drawEnd(sound) {
    const { phase, error } = sound;
    const title = { cancelled: "Cancelled", gone: "This result is gone" }[phase] ?? error?.title ?? "That did not work";
    root.replaceChildren(
      h(
        "section",
        { class: `panel ${phase === "cancelled" ? "" : "error"}`, role: phase === "cancelled" ? null : "alert" },
        heading(sound),
        h("h2", { text: title }),
        h("p", { class: "why", text: why(sound) }),
        h(
          "div",
          { class: "acts" },
          sound.file ? button("Try again", "retry", () => library.again(sound), { class: "primary" }) : null,
          recordings.has(sound.file)
            ? button("Save the recording", "save", () => download(sound.file, sound.file.name))
            : null,
          button("Remove", "close", () => library.remove(sound)),
        ),
      ),
    );
  }

  function drawAnswer(sound, card) {
    const { result, job } = sound;
    const { predictions } = result;
    const [first] = predictions;
    const shownBars = every ? predictions : predictions.slice(0, FEW);
    const toggle = button(
      every ? "Show fewer" : `Show all ${predictions.length}`,
      null,
      () => {
        every = !every;
        drawAnswer(sound, card);
        root.querySelector(".toggle").focus();
      },
      { class: "quiet toggle", "aria-expanded": String(every) },
    );
    root.replaceChildren(
      h(
        "section",
        { class: "panel answer", "aria-label": "Answer" },
        heading(
          sound,
          button("Copy JSON", "copy", () => copy(JSON.stringify(summary(sound), null, 2), "The answer is copied")),
          button("Save everything", "save", () => save(sound), { title: "The whole result as JSON, arrays included" }),
          button("Copy link", "link", () => copy(new URL(`#job=${job.id}`, location).href, "The link is copied")),
        ),
        h(
          "div",
          { class: "columns" },
          h(
            "div",
            {},
            h(
              "p",
              { class: "verdict", data: { level: level(first.confidence) } },
              h("strong", { text: className(first.class) }),
              " ",
              h("span", { class: "badge", text: `${level(first.confidence)} confidence` }),
            ),
            bars(shownBars),
            predictions.length > FEW ? toggle : null,
          ),
          h("div", {}, certainty(predictions), timings(job), origin(sound, card)),
        ),
        h("div", { class: "offer" }),
      ),
    );
    offerModel();
  }

  /** Another model is chosen than the one that answered: offer to ask it. */
  function offerModel() {
    const [sound] = shown;
    const place = root.querySelector(".offer");
    const wanted = settings.get("model");
    if (!place) return;
    const other = wanted && sound.result?.model !== wanted && sound.file && cards.has(wanted);
    place.replaceChildren(
      ...(other
        ? [button(`Classify again with ${wanted}`, "retry", () => library.again(sound), { class: "primary" })]
        : []),
    );
  }

  return { show };
}

/** Why there is no answer. */
function why({ phase, error }) {
  if (phase === "gone") return "The server keeps a result for a while only. Choose the sound again to get a new one.";
  return error?.detail ?? (phase === "cancelled" ? "Nothing of it is kept on the server." : "");
}

function heading(sound, ...tools) {
  return h("header", {}, title(sound), h("div", { class: "tools" }, tools));
}

function title(sound) {
  const audio = sound.job?.audio;
  const { result } = sound;
  const facts = audio
    ? [
        audio.codec.startsWith(audio.container) ? audio.codec : `${audio.container}, ${audio.codec}`,
        bytes(audio.bytes),
        span(result?.duration ?? audio.duration ?? 0),
        audio.sample_rate || result ? hertz(audio.sample_rate ?? result.sample_rate) : null,
        audio.channels ? ({ 1: "mono", 2: "stereo" }[audio.channels] ?? `${audio.channels} channels`) : null,
      ]
    : [sound.file ? bytes(sound.file.size) : null];
  return h(
    "div",
    { class: "title" },
    h("h1", { text: sound.name }),
    h(
      "ul",
      { class: "chips" },
      facts.filter(Boolean).map((fact) => h("li", { text: fact })),
    ),
  );
}

/** The answer without its arrays. */
function summary({ job, result }) {
  const { model, predictions, duration, sample_rate, combined, window, windows } = result;
  const few = (list) => list.slice(0, FEW);
  return {
    ...job,
    result: {
      model,
      duration,
      sample_rate,
      combined,
      window,
      predictions: few(predictions),
      windows: windows.map((one) => ({ ...one, predictions: few(one.predictions) })),
    },
  };
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure page there is no clipboard; a selection that is copied by hand still works.
    const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(said);
}

async function save({ job, name }) {
  const response = await fetch(`/v1/jobs/${job.id}/result`).catch(() => null);
  if (response?.ok) download(await response.blob(), `${name.replace(/\.[^.]*$/, "")}.json`);
  else toast(response ? "The server has forgotten this result" : "The server does not answer");
}
