// The first panel of a sound: the progress of its job, then the prediction with all that belongs to it, or why there is none.

import { areParts, certainty, levelFacts, provenance, timings } from "./charts.js";
import { barLengths, buildConfidences, moveBars } from "./confidences.js";
import { button, find, h } from "../view/dom.js";
import { eventList } from "./events.js";
import { exportButtons } from "./export.js";
import { buildFailure, updateReason } from "./failure.js";
import { headerOf } from "./header.js";
import { verdictLine, warningList } from "./headline.js";
import { library } from "../library/library.js";
import { loadPart } from "../server/reachability.js";
import { buildProgress } from "./progress.js";
import { reliabilityDiagram } from "./reliability.js";
import { settings } from "../state/settings.js";
import { showShare } from "./share.js";
import { t } from "../words.js";
import { answerText, isLong, isNamed } from "./verdict.js";

/** @import { Job, ModelCard, Result } from "../server/types.js" */
/** @import { Sound } from "../library/sound.js" */

/**
 * @param {HTMLElement} root
 * @param {ReadonlyMap<string, ModelCard>} cards  by model name
 */
export function mountPrediction(root, cards) {
  /** @type {{sound: Sound, phase: string, result: Result | null, file: File | null, card: ModelCard | null} | null} */
  let shown = null; // what is drawn
  /** @type {ReturnType<typeof buildProgress> | null} */
  let progress = null; // while a job is under way
  const confidences = buildConfidences();

  settings.watch(["model"], offerModel);

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
      confidences.markPicked();
      updateShare();
      return updateReason(root, sound);
    }
    if (shown?.sound.root !== sound.root) confidences.collapse();
    const hasFocus = () => root.contains(document.activeElement);
    const hadFocus = hasFocus();
    shown = { sound, phase, result, file, card };
    const lengths = barLengths(root);
    draw(sound, card);
    if (sound.root.versions.length) moveBars(root, lengths);
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
    else if (sound.ended) root.replaceChildren(buildFailure(sound));
    else drawProgress(sound);
  }

  /** @param {Sound} sound */
  function drawProgress(sound) {
    if (progress?.sound !== sound) {
      progress = buildProgress(sound);
      root.replaceChildren(progress.element);
    }
    progress.update();
  }

  /**
   * @param {Sound} sound
   * @param {Job} job
   * @param {Result} result
   * @param {ModelCard | null} card
   */
  function drawPrediction(sound, job, result, card) {
    const before = originalOf(sound, result);
    const answer = h(
      "div",
      {},
      verdictLine(result, card),
      before ? h("p", { class: "before muted" }, t("prediction.edited"), " ", h("b", { text: answerText(before) })) : null,
      warningList(result),
      isLong(result) && result.detections?.length ? eventList(result, job.id) : null,
    );
    const details = h(
      "div",
      {},
      isNamed(result) && areParts(result.predictions) ? certainty(result) : null,
      levelFacts(result.level),
      timings(job),
      provenance(result, job, card),
      reliabilityDiagram(card),
    );
    root.replaceChildren(
      h(
        "section",
        { class: "panel prediction", "aria-label": t("prediction.title") },
        headerOf(sound, ...exportButtons(job, result, sound.name)),
        sound.root.example ? exampleNote(sound.root, result) : null,
        h("div", { class: "columns" }, answer, details),
        h("div", { class: "reclassify" }),
        h("div", { class: "share" }),
      ),
    );
    confidences.appendTo(answer, { sound, result, before, card });
    offerModel();
    updateShare();
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
      button(t("example.tour"), null, () => loadPart(import("../start/tour.js")).then((loaded) => loaded?.startTour()), { class: "primary" }),
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
