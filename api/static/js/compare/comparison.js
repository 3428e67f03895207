// Two results side by side: the same axes and colours, one position, their difference, and their classes in one chart.

import { spectrogramScale } from "../signal/decibels.js";
import { button, h, icon } from "../view/dom.js";
import { className, formatHertz, percent } from "../view/format.js";
import { diverging } from "../network/colour-scale.js";
import { placeOf } from "../network/graph.js";
import { drawLegend, ready } from "../paint/painter.js";
import { settings } from "../state/settings.js";
import { axisLength, matrixRegion, placeSpectrogram } from "../sound/axes.js";
import { answerText } from "../result/verdict.js";
import { t } from "../words.js";
import { difference, sameAxes } from "./difference.js";
import { dumbbells } from "./dumbbell.js";
import { listening } from "./listen.js";
import { pictureList } from "./pictures.js";

/** @import { ColourScale, ModelCard, Result } from "../server/types.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Sound } from "../library/sound.js" */
/** @import { Side } from "./listen.js" */

/** @typedef {Sound & {result: Result}} Classified  a sound with a result */

const SIDES = /** @type {Side[]} */ (["left", "right"]);
const MOST_DECIBELS = 30; // of difference that the colours show

/**
 * {element, repaint(), close()}.
 * @param {Record<Side, Classified>} sounds
 * @param {ReadonlyMap<string, ModelCard>} cards
 */
export function comparison(sounds, cards) {
  const results = { left: sounds.left.result, right: sounds.right.result };
  /** @type {Record<Side, ModelCard | null>} */
  const models = { left: cards.get(results.left.model) ?? null, right: cards.get(results.right.model) ?? null };
  const seconds = Math.max(...SIDES.map((side) => axisLength(results[side], models[side], results[side].duration)));
  const low = Math.min(...SIDES.map((side) => models[side]?.frontend.f_min ?? Infinity));
  const high = Math.max(...SIDES.map((side) => models[side]?.frontend.f_max ?? 0));
  /** @type {Partial<Record<Side, HTMLButtonElement>>} */
  const buttons = {};
  const pictures = pictureList((seconds) => player.seek(seconds));
  const player = listening(sounds, (time, playing) => {
    pictures.moveTo(time);
    for (const side of SIDES) setButton(side, playing === side);
  });
  const maps = stageMaps();
  const element = h(
    "div",
    { class: "comparison" },
    h("div", { class: "sides" }, SIDES.map(panelOf)),
    spectrogramDifference(),
    dumbbells(results.left, results.right),
    h("p", { class: "muted", text: differenceText(results.left, results.right) }),
    maps,
  );
  const sizes = new ResizeObserver(pictures.repaint);
  sizes.observe(element);

  /** @param {Side} side */
  function panelOf(side) {
    const { name, url } = sounds[side];
    const result = results[side];
    const play = button(t("compare.play"), "play", () => player.toggle(side), { class: "quiet" });
    play.disabled = !url;
    buttons[side] = play;
    return h(
      "section",
      { class: "side", data: { side }, "aria-label": `${t(`compare.${side}`)}: ${name}` },
      h("header", {}, h("h3", {}, h("i", { class: "mark", data: { side }, "aria-hidden": "true" }), name), play),
      h("p", {}, h("b", { text: answerText(result) }), h("span", { class: "muted", text: ` – ${result.model}` })),
      spectrogramOf(side),
    );
  }

  /**
   * @param {Side} side
   * @param {boolean} plays
   */
  function setButton(side, plays) {
    const play = buttons[side];
    if (!play || play.getAttribute("aria-pressed") === String(plays)) return;
    play.setAttribute("aria-pressed", String(plays));
    play.replaceChildren(icon(plays ? "pause" : "play"), h("span", { text: t(plays ? "compare.pause" : "compare.play") }));
  }

  /** @param {Side} side */
  function spectrogramOf(side) {
    const placed = placeSpectrogram(results[side], models[side]);
    if (!placed) return h("p", { class: "muted", text: t("compare.no_spectrogram") });
    const region = matrixRegion(placed, { start: 0, end: seconds, low, high });
    const { matrix, fullScale } = placed;
    const label = t("compare.spectrogram", { name: sounds[side].name });
    const scale = () => spectrogramScale(fullScale);
    return pictures.addWithAxes(label, placed.axis, low, high, { matrix, region, start: 0, seconds, smooth: true, scale });
  }

  function spectrogramDifference() {
    const [a, b] = [models.left, models.right];
    const [one, other] = SIDES.map((side) => placeSpectrogram(results[side], models[side]));
    if (!a || !b || !one || !other) return null;
    const matrix = sameAxes(a, b) && one.start === other.start ? difference(one.matrix, other.matrix) : null;
    if (!matrix) return h("p", { class: "muted", text: t("compare.other_axes") });
    const placed = { ...one, matrix };
    const region = matrixRegion(placed, { start: 0, end: seconds, low, high });
    const scale = () => ({ colours: diverging, min: -MOST_DECIBELS, max: MOST_DECIBELS });
    const text = t("compare.difference.text", { low: formatHertz(low), high: formatHertz(high) });
    const label = `${t("compare.difference")}. ${text}`;
    return h(
      "figure",
      { class: "difference" },
      h("figcaption", {}, h("b", { text: t("compare.difference") }), legend(`−${MOST_DECIBELS} dB`, `+${MOST_DECIBELS} dB`)),
      pictures.addWithAxes(label, one.axis, low, high, { matrix, region, start: 0, seconds, smooth: true, scale }),
    );
  }

  /** The map of each stage of both, and their difference where both have the same layer. */
  function stageMaps() {
    /** @param {Side} side */
    const stages = (side) => [...results[side].maps.keys()].filter((layer) => !placeOf(models[side]?.architecture ?? {}, layer).block);
    const layers = [...new Set(SIDES.flatMap(stages))];
    if (!layers.length) return null;
    return h(
      "details",
      { class: "maps-of-stages", on: { toggle: pictures.repaint } },
      h("summary", { text: t("compare.maps") }),
      h(
        "div",
        { class: "stage-maps" },
        ["", "compare.left", "compare.right", "compare.difference.short"].map((key) =>
          h("b", { text: key ? t(/** @type {any} */ (key)) : "" }),
        ),
        layers.flatMap((layer) => {
          const [a, b] = SIDES.map((side) => results[side].maps.get(layer) ?? null);
          const both = a && b && a.columns === b.columns ? difference(a, b) : null;
          const all = [a, b].filter((one) => one !== null).map((one) => one.statistics);
          const [min, max] = [Math.min(...all.map((one) => one.min)), Math.max(...all.map((one) => one.max))];
          const end = both ? Math.max(Math.abs(both.statistics.min), Math.abs(both.statistics.max), 1e-9) : 1;
          const shared = () => ({ colours: settings.get("mapColours"), min, max });
          return [
            h("span", { class: "layer", text: layer }),
            mapOf(a, "left", layer, shared),
            mapOf(b, "right", layer, shared),
            mapOf(both, null, layer, () => ({ colours: diverging, min: -end, max: end })),
          ];
        }),
      ),
    );
  }

  /**
   * @param {Matrix | null} matrix
   * @param {Side | null} side
   * @param {string} layer
   * @param {() => ColourScale} scale
   */
  function mapOf(matrix, side, layer, scale) {
    if (!matrix) return h("span", { class: "muted", text: "–" });
    const of = side ?? "left";
    const start = results[of].windows?.[results[of].window]?.start ?? 0;
    const length = models[of]?.window_seconds ?? results[of].duration;
    const label = `${layer}: ${t(side ? `compare.${side}` : "compare.difference.short")}`;
    return pictures.add(label, { matrix, start, seconds: length, smooth: false, scale });
  }

  return {
    element,
    repaint: pictures.repaint,
    close() {
      sizes.disconnect();
      player.close();
    },
  };
}

/**
 * @param {string} low
 * @param {string} high
 */
function legend(low, high) {
  const canvas = h("canvas", { width: 128, height: 8, "aria-hidden": "true" });
  ready.then(() => drawLegend(canvas, diverging));
  return h("span", { class: "scale number" }, low, canvas, high);
}

/**
 * How two predictions differ, in a sentence.
 * @param {Result} left
 * @param {Result} right
 */
function differenceText(left, right) {
  const [a, b] = [left.predictions[0], right.predictions[0]];
  if (a.class === b.class) {
    const points = Math.round(100 * Math.abs(a.confidence - b.confidence));
    return t("compare.same_class", { class: className(a.class), count: points });
  }
  /** @type {(side: Side, result: Result, name: string) => string} */
  const other = (side, { predictions }, name) => {
    const found = predictions.find((one) => one.class === name);
    return found
      ? t(`compare.has.${side}`, { class: className(name), share: percent(found.confidence, 1) })
      : t(`compare.lacks.${side}`, { class: className(name) });
  };
  return t("compare.other_class", { right: other("right", right, a.class), left: other("left", left, b.class) });
}
