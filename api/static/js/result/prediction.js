// The verdict on the selected sound with its warnings, events and confidences; before that, the progress of the job.

import { areParts, confidenceBars, certainty, confidenceLevel, levelFacts, provenance, timings } from "./charts.js";
import { button, download, find, h, icon, toast } from "../view/dom.js";
import { eventList } from "./events.js";
import { filePicker } from "../input/file-picker.js";
import { className, formatBytes, formatDuration, formatHertz, percent } from "../view/format.js";
import { library } from "../library/library.js";
import { loadStyle } from "../view/load-style.js";
import { lookInto } from "../library/look.js";
import { recordings } from "../input/recorder.js";
import { reliabilityDiagram } from "./reliability.js";
import { settings } from "../state/settings.js";
import { showShare } from "./share.js";
import { showProgress, stateText } from "../library/sound-list.js";
import { t } from "../words.js";
import { answerText, detectedClasses, headline, isLong, warningText } from "./verdict.js";

/** @import { ErrorInfo, Job, ModelCard, Prediction, Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

const TOP = 5; // classes shown at first

/**
 * @param {HTMLElement} root
 * @param {ReadonlyMap<string, ModelCard>} cards  by model name
 */
export function mountPrediction(root, cards) {
  /** @type {{sound: Sound, phase: string, result: Result | null, file: File | null, card: ModelCard | null} | null} */
  let shown = null; // what is drawn
  let expanded = false; // all classes
  let unfolded = false; // the confidences below a verdict that names no class
  /** @type {ReturnType<typeof buildProgress> | null} */
  let progress = null; // while a job is under way

  settings.watch(["model"], offerModel);
  settings.watch(["shares"], updateDonut);
  settings.watch(["cam"], markPicked);

  /**
   * @param {Sound} sound
   * @param {ModelCard | null} card  of the sound's model, where it is served
   */
  function show(sound, card) {
    const { phase, result, file } = sound;
    const unchanged =
      shown?.sound === sound &&
      shown.phase === phase &&
      shown.result === result &&
      shown.file === file &&
      shown.card === card;
    if (sound.ended && unchanged) {
      markPicked();
      updateShare();
      return updateReason(sound);
    }
    if (shown?.sound.root !== sound.root) expanded = unfolded = false;
    const hasFocus = () => root.contains(document.activeElement);
    const hadFocus = hasFocus();
    shown = { sound, phase, result, file, card };
    const lengths = barLengths();
    draw(sound, card);
    if (sound.root.versions.length) moveBars(lengths);
    // Where the focused element was removed, the focus goes to the article around it.
    const article = root.closest("[tabindex]");
    if (hadFocus && !hasFocus() && article instanceof HTMLElement) article.focus({ preventScroll: true });
  }

  /**
   * @param {Sound} sound
   * @param {ModelCard | null} card
   */
  function draw(sound, card) {
    if (sound.ended) progress = null;
    const { job, result } = sound;
    if (sound.phase === "succeeded" && job && result) drawPrediction(sound, job, result, card);
    else if (sound.ended) drawFailure(sound);
    else drawProgress(sound);
  }

  /**
   * The elements stay the same while a job is under way: a button that is being pressed must not be replaced.
   * @param {Sound} sound
   */
  function drawProgress(sound) {
    if (progress?.sound !== sound) {
      progress = buildProgress(sound);
      root.replaceChildren(progress.element);
    }
    progress.update();
  }

  /**
   * A cancelled sound learns a little later whether the server keeps anything of it; its buttons stay the same.
   * @param {Sound} sound
   */
  function updateReason(sound) {
    const text = find(root, ".reason");
    if (text && text.textContent !== reason(sound)) text.textContent = reason(sound);
  }

  /** @param {Sound} sound */
  function drawFailure(sound) {
    const { phase, error, file } = sound;
    const titles = { cancelled: t("list.cancelled"), gone: t("prediction.gone") };
    const heading =
      phase === "cancelled" || phase === "gone"
        ? titles[phase]
        : (error?.title ?? t("library.failed"));
    root.replaceChildren(
      h(
        "section",
        { class: `panel ${phase === "cancelled" ? "" : "error"}`, role: phase === "cancelled" ? null : "alert" },
        header(sound),
        h("h2", { text: heading }),
        h("p", { class: "reason", text: reason(sound) }),
        h(
          "div",
          { class: "actions" },
          file && !isOfFile(error) ? button(t("common.retry"), "retry", () => library.resubmit(sound), { class: "primary" }) : null,
          file && isOfFile(error) ? filePicker(() => sound, true) : null,
          file && recordings.has(file) ? button(t("prediction.save_recording"), "save", () => download(file, file.name)) : null,
          button(t("prediction.remove"), "close", () => library.remove(sound)),
        ),
      ),
    );
  }

  /**
   * @param {Sound} sound
   * @param {Job} job
   * @param {Result} result
   * @param {ModelCard | null} card
   */
  function drawPrediction(sound, job, result, card) {
    const { predictions, verdict } = result;
    const isNamed = verdict === "named" || verdict === "unsure";
    const toggle = button(
      expanded ? t("prediction.fewer") : t("prediction.all", { count: predictions.length }),
      null,
      () => {
        expanded = !expanded;
        drawPrediction(sound, job, result, card);
        find(root, ".toggle")?.focus();
      },
      { class: "quiet toggle", "aria-expanded": String(expanded) },
    );
    const before = originalOf(sound, result);
    const onPick = result.cam ? (/** @type {string} */ name) => pick(sound, name) : null;
    const listed = expanded ? predictions : firstOf(predictions, before);
    const donutButton = button(t("donut.button"), "donut", toggleDonut, { class: "quiet donut-toggle" });
    const bars = [
      h("div", { class: "shares" }, confidenceBars(listed, onPick, card?.parents, before?.predictions)),
      h("div", { class: "actions" }, predictions.length > TOP ? toggle : null, areParts(predictions) ? donutButton : null),
      result.cam ? h("p", { class: "pick-hint muted", text: t("prediction.pick") }) : null,
    ];
    const folded = h("details", { class: "folded" }, h("summary", { text: t("prediction.all_the_same") }), bars);
    folded.open = unfolded || before !== null;
    folded.addEventListener("toggle", () => (unfolded = folded.open));
    root.replaceChildren(
      h(
        "section",
        { class: "panel prediction", "aria-label": t("prediction.title") },
        header(
          sound,
          button(t("prediction.copy_json"), "copy", () => copy(JSON.stringify(summary(job, result), null, 2), t("prediction.json_copied"))),
          ...(job.id ? jobButtons(job, sound.name) : []),
        ),
        sound.root.example ? exampleNote(sound.root, result) : null,
        h(
          "div",
          { class: "columns" },
          h(
            "div",
            {},
            verdictLine(result, card),
            before ? h("p", { class: "before muted" }, t("prediction.edited"), " ", h("b", { text: answerText(before) })) : null,
            warningList(result),
            isLong(result) && result.detections?.length ? eventList(result, job.id) : null,
            isNamed ? bars : folded,
          ),
          h(
            "div",
            {},
            isNamed && areParts(predictions) ? certainty(result) : null,
            levelFacts(result.level),
            timings(job),
            provenance(result, job, card),
            reliabilityDiagram(card),
          ),
        ),
        h("div", { class: "reclassify" }),
        h("div", { class: "share" }),
      ),
    );
    offerModel();
    markPicked();
    updateShare();
    updateDonut();
  }

  function toggleDonut() {
    settings.set("shares", settings.get("shares") === "donut" ? "bars" : "donut");
  }

  /** Draw the donut, or remove it, as the visitor has chosen. Its code is loaded with the first one. */
  async function updateDonut() {
    const wanted = settings.get("shares") === "donut";
    const [place, pressed] = [find(root, ".shares"), find(root, ".donut-toggle")];
    pressed?.setAttribute("aria-pressed", String(wanted));
    if (!place || !pressed || !shown?.result) return;
    const { predictions } = shown.result;
    const bars = find(place, ".bars");
    find(place, ".donut")?.remove();
    bars?.classList.remove("coloured");
    if (!wanted || !bars) return;
    const [{ donut }] = await Promise.all([import("./donut.js"), loadStyle("donut")]);
    if (settings.get("shares") === "donut" && !find(place, ".donut")) place.append(donut(predictions, bars));
  }

  /**
   * Show where a class is heard: its class activation, of a long sound in the window where its confidence is highest. Clicked
   * again, hide it.
   * @param {Sound} sound
   * @param {string} name
   */
  function pick(sound, name) {
    const { result, view } = sound;
    if (!result || !view) return;
    const isShown = settings.get("cam") && !sound.looking && view.camClass === name;
    settings.set("cam", !isShown);
    if (!isShown) lookInto(sound, bestWindow(result, name), name);
  }

  /** How long the bar of each class is. @returns {Map<string, string>} */
  function barLengths() {
    const rows = [...root.querySelectorAll(".bars [data-class]")].filter((row) => row instanceof HTMLElement);
    return new Map(rows.map((row) => [row.dataset.class ?? "", find(row, ".bar")?.style.transform ?? ""]));
  }

  /**
   * Let the bars grow or shrink from the lengths that they had for another version of the sound.
   * @param {Map<string, string>} from
   */
  function moveBars(from) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const row of root.querySelectorAll(".bars [data-class]")) {
      const bar = find(row, ".bar");
      const transform = row instanceof HTMLElement ? from.get(row.dataset.class ?? "") : null;
      if (bar && transform) bar.animate({ transform: [transform, bar.style.transform] }, { duration: 250, easing: "ease-out" });
    }
  }

  /** Mark the bar of the class whose class activation is shown, or has been requested. */
  function markPicked() {
    const { view = null, looking = null } = shown?.sound ?? {};
    const picked = settings.get("cam") ? (looking ?? view)?.camClass : null;
    for (const row of root.querySelectorAll(".bars button")) {
      if (!(row instanceof HTMLElement)) continue;
      const isPicked = row.dataset.class === picked;
      row.setAttribute("aria-pressed", String(isPicked));
      row.toggleAttribute("data-busy", isPicked && looking !== null);
    }
  }

  function updateShare() {
    const [place, job] = [find(root, ".share"), shown?.sound.job];
    if (place && job && shown) showShare(place, shown.sound, job);
  }

  /** Where another model is selected than the one that computed the result, offer to classify the sound with it. */
  function offerModel() {
    const place = find(root, ".reclassify");
    if (!shown || !place) return;
    const { sound, result, file } = shown;
    const model = settings.get("model");
    place.replaceChildren();
    if (!model || !file || result?.model === model || !cards.has(model)) return;
    const props = { class: "primary" };
    place.append(button(t("prediction.again", { model }), "retry", () => library.classifyAgain(sound), props));
  }

  return { show };
}

/**
 * @param {Job} job
 * @param {string} name  of the sound
 */
const jobButtons = (job, name) => [
  button(t("prediction.save"), "save", () => save(job, name), { title: t("prediction.save.title") }),
  button(t("prediction.copy_link"), "link", () => copy(new URL(`#job=${job.id}`, location.href).href, t("prediction.link_copied"))),
];

/**
 * What the example is, and the way on from it.
 * @param {Sound} sound
 * @param {Result} result
 */
const exampleNote = (sound, { model }) =>
  h(
    "div",
    { class: "notice example" },
    h("p", { text: t("example.note", { model }) }),
    h(
      "div",
      { class: "actions" },
      button(t("example.tour"), null, () => import("../start/tour.js").then(({ startTour }) => startTour()), { class: "primary" }),
      button(t("example.close"), "close", () => library.remove(sound), { class: "quiet" }),
    ),
  );

/**
 * The result of the original of an edited sound, where it is of the same model; otherwise null.
 * @param {Sound} sound
 * @param {Result} result
 */
function originalOf({ original }, result) {
  const before = original?.result ?? null;
  return before?.model === result.model ? before : null;
}

/**
 * The first classes, and that of the original.
 * @param {Prediction[]} predictions
 * @param {Result | null} before
 */
function firstOf(predictions, before) {
  const first = predictions.slice(0, TOP);
  const was = before?.predictions[0].class;
  const missing = predictions.slice(TOP).find((one) => one.class === was);
  return missing ? [...first, missing] : first;
}

/**
 * The verdict as the headline of the panel.
 * @param {Result} result
 * @param {ModelCard | null} card
 */
function verdictLine(result, card) {
  const { verdict, predictions, duration } = result;
  const [first] = predictions;
  const several = detectedClasses(result).length > 1;
  const level = confidenceLevel(first.confidence);
  const closest = t("prediction.closest", { class: className(first.class), share: percent(first.confidence) });
  const note = {
    silent: null,
    unknown: h("span", { class: "muted note", text: closest }),
    unsure: h("span", { class: "badge", text: t("prediction.not_sure", { share: percent(first.confidence) }) }),
    named: h("span", { class: "badge", text: t(/** @type {"level.High"} */ (`level.${level}`)) }),
  }[verdict];
  const length = h("span", { class: "muted note", text: t("prediction.in", { duration: formatDuration(duration) }) });
  const isNamed = verdict === "named" || verdict === "unsure";
  return h(
    "p",
    { class: "top-class", data: { level: verdict === "unsure" ? "Low" : level, verdict } },
    h("strong", { text: headline(result, card?.classes.length ?? null) }),
    " ",
    several && isNamed ? length : note,
  );
}

/** @param {Result} result */
function warningList({ warnings }) {
  if (!warnings.length) return null;
  return h(
    "ul",
    { class: "warnings", "aria-label": t("prediction.warnings") },
    warnings.map((warning) => {
      const text = warningText(warning);
      return h(
        "li",
        { data: { code: warning.code } },
        icon("alert"),
        h("span", {}, text, text === warning.detail ? null : h("small", { class: "muted", text: ` ${warning.detail}` })),
      );
    }),
  );
}

/**
 * The window in which a class has its highest confidence, among those with something to hear.
 * @param {Result} result
 * @param {string} name
 */
function bestWindow({ windows, window }, name) {
  let best = { window, confidence: -1 };
  windows?.forEach(({ active, predictions }, i) => {
    const confidence = predictions.find((one) => one.class === name)?.confidence ?? 0;
    if (active !== false && confidence > best.confidence) best = { window: i, confidence };
  });
  return best.window;
}

/**
 * The progress of a job: {sound, element, update()}.
 * @param {Sound} sound
 */
function buildProgress(sound) {
  const phases = ["uploading", "queued", "running"];
  const steps = /** @type {const} */ (["step.upload", "step.queue", "step.network"]).map((key) => h("li", { text: t(key) }));
  const bar = h("progress", { max: 1, "aria-label": t("common.progress") });
  const state = h("p", { class: "muted number" });
  let title = titleOf(sound);
  const element = h(
    "section",
    { class: "panel", "aria-label": t("common.progress") },
    headerOf(
      title,
      button(t("common.cancel"), "stop", () => library.cancel(sound)),
    ),
    h("ol", { class: "steps" }, steps),
    bar,
    state,
  );
  function update() {
    const { phase } = sound;
    const at = phases.indexOf(phase);
    const now = titleOf(sound);
    if (!now.isEqualNode(title)) {
      title.replaceWith(now);
      title = now;
    }
    steps.forEach((step, i) => {
      step.classList.toggle("done", i < at);
      if (i === at) step.setAttribute("aria-current", "step");
      else step.removeAttribute("aria-current");
    });
    bar.hidden = phase === "waiting";
    showProgress(bar, sound);
    state.textContent = stateText(sound);
  }
  return { sound, element, update };
}

/**
 * Whether an error is about the file: another attempt would end in the same way.
 * @param {ErrorInfo | null} error
 */
const isOfFile = (error) => /^(audio_\w+|not_audio|payload_too_large|unsupported_media_type)$/.test(error?.code ?? "");

/**
 * Why there is no result.
 * @param {Sound} sound
 */
function reason({ phase, error }) {
  if (phase === "gone") return t("prediction.gone.text");
  return error?.detail ?? (phase === "cancelled" ? t("prediction.nothing_kept") : "");
}

/**
 * @param {Sound} sound
 * @param {...HTMLElement} tools
 */
const header = (sound, ...tools) => headerOf(titleOf(sound), ...tools);

/**
 * @param {HTMLElement} title
 * @param {...HTMLElement} tools
 */
const headerOf = (title, ...tools) => h("header", {}, title, h("div", { class: "tools" }, tools));

/**
 * The name of a sound and the properties of its file.
 * @param {Sound} sound
 */
function titleOf(sound) {
  return h(
    "div",
    { class: "title" },
    h("h1", { text: sound.name }),
    h(
      "ul",
      { class: "chips" },
      properties(sound).map((text) => h("li", { text })),
    ),
  );
}

/**
 * @param {Sound} sound
 * @returns {string[]}
 */
function properties({ file, job, result }) {
  const audio = job?.audio;
  if (!audio) return file ? [formatBytes(file.size)] : [];
  const { container, codec, channels } = audio;
  const rate = audio.sample_rate ?? result?.sample_rate;
  const found = [
    codec.startsWith(container) ? codec : `${container}, ${codec}`,
    formatBytes(audio.bytes),
    formatDuration(result?.duration ?? audio.duration ?? 0),
  ];
  if (rate) found.push(formatHertz(rate));
  if (channels) found.push(channels === 1 ? t("prediction.mono") : channels === 2 ? t("prediction.stereo") : t("prediction.channels", { count: channels }));
  return found;
}

/**
 * Job and result without the arrays.
 * @param {Job} job
 * @param {Result} result
 */
function summary(job, result) {
  const { model, predictions, duration, sample_rate, combined, window, windows } = result;
  const { verdict, known, level, warnings, detections } = result;
  /** @param {Prediction[]} list */
  const top = (list) => list.slice(0, TOP);
  return {
    ...job,
    result: {
      model,
      duration,
      sample_rate,
      combined,
      window,
      verdict,
      known,
      level,
      warnings,
      predictions: top(predictions),
      detections,
      windows: windows?.map((one) => ({ ...one, predictions: top(one.predictions) })),
    },
  };
}

/**
 * @param {string} text
 * @param {string} notice  shown when it is done
 */
async function copy(text, notice) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without a secure page there is no clipboard; the older command copies a selection.
    const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(notice);
}

/**
 * Save the whole result as JSON.
 * @param {Job} job
 * @param {string} name  of the sound
 */
async function save({ id }, name) {
  const response = await fetch(`/v1/jobs/${id}/result`).catch(() => null);
  const body = response?.ok ? await response.blob().catch(() => null) : null;
  if (body) download(body, `${name.replace(/\.[^.]*$/, "")}.json`);
  else toast(response && !response.ok ? t("prediction.lost") : t("common.no_response"));
}
