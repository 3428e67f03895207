// Live mode: while the microphone runs, its spectrogram scrolls, and the answer and the map of a layer follow every half second.

import { announce, button, byId, context2d, h } from "../view/dom.js";
import { className, clock, fixed, formatDbfs, formatHertz, percent } from "../view/format.js";
import { levelMeter } from "../input/level-meter.js";
import { microphoneList } from "../input/microphones.js";
import { paint, ready } from "../paint/painter.js";
import { record } from "../input/recorder.js";
import { inWords } from "../server/errors.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";
import { LiveSpectrogram } from "./spectrogram.js";
import { LiveStream } from "./stream.js";

/** @import { Colormap, Detection } from "../server/types.js" */
/** @import { LiveAnswer, StreamOpened } from "./stream.js" */
/** @import { Matrix } from "../signal/matrix.js" */
/** @import { Recording } from "../input/recorder.js" */

const SPAN = 8; // seconds that are visible
const BARS = 5;
const MAX_EVENTS = 50; // in the list; the newest first
const HIGHEST = 8_000; // Hz; what most models hear
const TICKS = [500, 1_000, 2_000, 4_000]; // Hz

/**
 * Record until the visitor stops; resolves with the recording, or with null if it was discarded.
 * @param {{seconds: number, bytes: number}} limits  of a recording
 * @returns {Promise<File | null>} rejects with an Error that can be shown
 */
export async function listenLive(limits) {
  await ready;
  /** @type {LivePanel | null} */
  let panel = null;
  const recording = await record({
    ...limits,
    onLevel: (peak, seconds) => panel?.showLevel(peak, seconds),
    onBlock: (samples, rate) => {
      panel ??= new LivePanel(rate, recording);
      panel.add(samples);
    },
  });
  try {
    return await recording.finished;
  } finally {
    /** @type {LivePanel | null} */ (panel)?.close();
  }
}

class LivePanel {
  #spectrum;
  #stream;
  #headline = h("h1", { text: t("live.listening") });
  #note = h("p", { class: "muted note", text: t("live.first") });
  #trouble = h("p", { class: "problem", role: "alert", hidden: true });
  #bars = Array.from({ length: BARS }, () => {
    const name = h("span", { class: "name" });
    const fill = h("div", {});
    const share = h("span", { class: "number" });
    const row = h("li", { hidden: true }, name, h("div", { class: "bar", "aria-hidden": "true" }, fill), share);
    return { row, name, fill, share };
  });
  #events = h("ol", { class: "events" });
  #noEvents = h("p", { class: "muted", text: t("live.no_events") });
  #picture = h("canvas", { role: "img", "aria-label": t("live.picture") });
  #map = h("canvas", { role: "img", "aria-label": t("live.map") });
  #layers = h("select", { disabled: true }, h("option", { text: "…" }));
  #meter = levelMeter();
  #time = h("span", { class: "number", text: clock(0) });
  #ticks = h("div", { class: "frequency number", "aria-hidden": "true" });
  #still = matchMedia("(prefers-reduced-motion: reduce)");
  /** Samples that were recorded. */
  #recorded = 0;
  /** When the last block came, of performance.now(). */
  #arrived = performance.now();
  /** What is at the right edge, in seconds of the recording. It never goes back. */
  #edge = 0;
  /** @type {{answer: LiveAnswer, maps: Map<string, Matrix>} | null} */
  #last = null;
  /** The map of the chosen layer as an image, and the time it covers. @type {{image: HTMLCanvasElement, start: number, end: number, heard: number} | null} */
  #painted = null;
  /** @type {StreamOpened | null} */
  #opened = null;
  /** Class and start -> its entry in the list. @type {Map<string, HTMLLIElement>} */
  #entries = new Map();
  #frame = 0;
  #drawn = -1;
  #sizes = new ResizeObserver(() => (this.#drawn = -1));

  /**
   * @param {number} rate  Hz
   * @param {Recording} recording
   */
  constructor(rate, recording) {
    this.rate = rate;
    this.#spectrum = new LiveSpectrogram(rate, SPAN + 1, HIGHEST);
    this.#ticks.append(
      ...TICKS.map((hertz) => {
        const label = h("span", { text: formatHertz(hertz) });
        label.style.bottom = `${100 * this.#spectrum.place(hertz)}%`;
        return label;
      }),
    );
    const stop = button(t("live.stop"), "stop", () => recording.stop(), { class: "primary" });
    this.element = h(
      "section",
      { class: "panel live", id: "live", "aria-label": t("live.title") },
      h(
        "header",
        {},
        h("span", { class: "dot", "aria-hidden": "true" }),
        this.#meter.element,
        this.#time,
        stop,
        button(t("live.discard"), "close", () => recording.discard(), { quiet: true }),
        microphoneList(recording),
      ),
      this.#trouble,
      h(
        "div",
        { class: "now" },
        h("div", { class: "answer" }, this.#headline, this.#note, h("ol", { class: "bars" }, this.#bars.map(({ row }) => row))),
        h("div", { class: "heard" }, h("h2", { text: t("live.events") }), this.#noEvents, this.#events),
      ),
      h("figure", {}, h("figcaption", { text: t("live.sound") }), h("div", { class: "plot" }, this.#ticks, this.#picture)),
      h(
        "figure",
        {},
        h("figcaption", {}, h("label", {}, `${t("live.layer")} `, this.#layers)),
        h("div", { class: "plot" }, h("div", { class: "frequency" }), this.#map),
      ),
    );
    byId("upload").closest("main")?.append(this.element);
    document.body.toggleAttribute("data-live", true);
    scrollTo(0, 0);
    stop.focus();
    this.#layers.addEventListener("change", () => this.#paintMap());
    for (const canvas of [this.#picture, this.#map]) this.#sizes.observe(canvas);
    this.#stream = new LiveStream(rate, settings.get("model"), {
      onOpen: (opened) => {
        this.#opened = opened;
        this.#trouble.hidden = true;
      },
      onAnswer: (answer, maps) => this.#answer(answer, maps),
      onTrouble: (problem) => {
        this.#trouble.textContent = problem === null ? t("live.lost") : `${problem} ${t("live.goes_on")}`;
        this.#trouble.hidden = false;
      },
    });
    announce(t("live.listening"));
    this.#draw();
  }

  /** @param {Float32Array} samples */
  add(samples) {
    const colours = /** @type {Colormap} */ (settings.get("soundColours"));
    this.#spectrum.add(samples, { colours, min: -settings.get("range"), max: -settings.get("loudest") });
    this.#recorded += samples.length;
    this.#arrived = performance.now();
    this.#stream.send(samples);
  }

  /**
   * @param {number} peak
   * @param {number} seconds
   */
  showLevel(peak, seconds) {
    this.#meter.show(peak);
    this.#time.textContent = clock(seconds);
  }

  close() {
    cancelAnimationFrame(this.#frame);
    this.#sizes.disconnect();
    this.#stream.close();
    this.element.remove();
    document.body.removeAttribute("data-live");
  }

  /**
   * @param {LiveAnswer} answer
   * @param {Map<string, Matrix>} maps
   */
  #answer(answer, maps) {
    this.#trouble.hidden = answer.error === null;
    if (answer.error) {
      this.#trouble.textContent = inWords(answer.error).detail;
      return;
    }
    this.#trouble.hidden = true;
    this.#last = { answer, maps };
    const { predictions, verdict, level, dropped } = answer;
    const name = className(predictions[0]?.class ?? "");
    const headline =
      verdict === "silent"
        ? t("live.silent")
        : verdict === "unknown"
          ? t("live.unknown")
          : verdict === "unsure"
            ? t("live.unsure", { name })
            : name;
    if (headline !== this.#headline.textContent) {
      this.#headline.textContent = headline;
      announce(headline);
    }
    const peak = level?.peak_dbfs;
    const loud = peak === null || peak === undefined ? "" : formatDbfs(peak, 0);
    const age = t("live.note", { seconds: fixed(answer.end - answer.start, 1), late: Math.round(1_000 * answer.latency) });
    this.#note.textContent = [age, loud, dropped ? t("live.dropped", { count: dropped }) : ""].filter(Boolean).join(" · ");
    this.element.dataset.verdict = verdict ?? "";
    this.#bars.forEach(({ row, name: label, fill, share }, i) => {
      const prediction = predictions[i];
      row.hidden = !prediction || verdict === "silent";
      if (!prediction) return;
      label.textContent = className(prediction.class);
      fill.style.transform = `scaleX(${prediction.confidence})`;
      share.textContent = percent(prediction.confidence);
    });
    for (const one of answer.began) this.#showEvent(one, false);
    for (const one of answer.ended) this.#showEvent(one, true);
    this.#fillLayers();
    this.#paintMap();
  }

  /**
   * @param {Detection} detection
   * @param {boolean} over
   */
  #showEvent({ class: name, start, end }, over) {
    const key = `${name} ${start.toFixed(3)}`;
    let entry = this.#entries.get(key);
    if (!entry) {
      entry = h("li", {});
      this.#entries.set(key, entry);
      this.#events.prepend(entry);
      if (this.#events.children.length > MAX_EVENTS) this.#events.lastElementChild?.remove();
    }
    const time = over ? `${clock(start)}–${clock(end)}` : t("live.since", { time: clock(start) });
    entry.replaceChildren(h("b", { text: className(name) }), " ", h("span", { class: "number muted", text: time }));
    entry.classList.toggle("open", !over);
    if (over) this.#entries.delete(key);
    this.#noEvents.hidden = true;
  }

  #fillLayers() {
    const names = [...(this.#last?.maps.keys() ?? [])];
    if (!this.#layers.disabled || !names.length) return;
    this.#layers.replaceChildren(...names.map((name) => h("option", { value: name, text: name })));
    this.#layers.disabled = false;
  }

  /** The map of the chosen layer as an image of one pixel a cell. */
  #paintMap() {
    const map = this.#last?.maps.get(this.#layers.value);
    if (!map || !this.#last || !this.#opened) return;
    const { answer } = this.#last;
    const image = h("canvas", { width: map.columns, height: map.rows });
    const { min, max } = map.statistics;
    paint(image, map, { colours: /** @type {Colormap} */ (settings.get("mapColours")), min, max });
    // At the beginning of a stream, more fills the window than was heard: only that is shown.
    this.#painted = { image, start: answer.start, end: answer.start + this.#opened.window_seconds, heard: answer.end };
    this.#drawn = -1;
  }

  /** Once in every frame of the screen; without motion only when something has come. */
  #draw = () => {
    this.#frame = requestAnimationFrame(this.#draw);
    const since = Math.min((performance.now() - this.#arrived) / 1_000, 0.2);
    const now = this.#recorded / this.rate + (this.#still.matches ? 0 : since);
    this.#edge = this.#still.matches ? now : Math.max(this.#edge, now - 0.1); // what is drawn has come
    if (this.#edge === this.#drawn) return;
    if (this.#still.matches && this.#drawn >= 0 && this.#edge - this.#drawn < 0.5) return;
    this.#drawn = this.#edge;
    const [start, end] = [this.#edge - SPAN, this.#edge];
    this.#spectrum.draw(cleared(this.#picture), start, end);
    const target = cleared(this.#map);
    if (!this.#painted) return;
    const { image, heard, ...map } = this.#painted;
    const { width, height } = target.canvas;
    const share = (heard - map.start) / (map.end - map.start);
    target.drawImage(
      image, 0, 0, image.width * share, image.height,
      ((map.start - start) / SPAN) * width, 0, ((heard - map.start) / SPAN) * width, height,
    ); // prettier-ignore
  };
}

/**
 * The context of a canvas that is as large as its element, and empty.
 * @param {HTMLCanvasElement} canvas
 */
function cleared(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.max(1, Math.round(size * devicePixelRatio)));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = context2d(canvas);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  return context;
}
