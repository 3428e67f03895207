// Two results side by side: answers, spectrograms, and what each stage made of them.

import { button, h } from "./dom.js";
import { bars } from "./figures.js";
import { className, percent } from "./format.js";
import { library } from "./library.js";
import { paint, ready } from "./paint/painter.js";
import { settings } from "./settings.js";

const CLASSES = 5;

export function mountCompare(root) {
  let left = null;
  let right = null;
  let open = false;
  library.addEventListener("list", refresh);
  library.addEventListener("change", ({ detail }) => detail.ended && refresh());
  settings.addEventListener(
    "change",
    ({ detail }) => ["soundColours", "mapColours"].includes(detail) && open && refresh(),
  );

  function show(sound) {
    if (left === sound && left.result === shownResult) return;
    left = sound;
    refresh();
  }
  let shownResult = null;

  function refresh() {
    shownResult = left?.result ?? null;
    const others = library.sounds.filter((sound) => sound !== left && sound.result);
    if (!left?.result || others.length === 0) {
      root.replaceChildren();
      return;
    }
    if (!others.includes(right)) right = others[0];
    const toggle = button(
      open ? "Close" : "Compare",
      open ? "close" : "compare",
      () => {
        open = !open;
        refresh();
        root.querySelector("button")?.focus();
      },
      { "aria-expanded": String(open) },
    );
    const pick = h(
      "select",
      {
        "aria-label": "Compare with",
        on: {
          change: (event) => {
            right = others[event.target.selectedIndex];
            refresh();
            root.querySelector("select")?.focus();
          },
        },
      },
      others.map((sound) => h("option", { text: `${sound.name} (${sound.result.model})`, selected: sound === right })),
    );
    root.replaceChildren(
      h(
        "section",
        { class: "panel compare", "aria-label": "Compare two results" },
        h(
          "header",
          {},
          h("h2", { text: open ? "Side by side with" : "Compare with" }),
          pick,
          h("div", { class: "tools" }, toggle),
        ),
        open ? h("div", { class: "sides" }, side(left), side(right)) : null,
        open ? verdict() : null,
      ),
    );
    if (open) ready.then(drawAll);
  }

  /** What differs, in one sentence. */
  function verdict() {
    const [a, b] = [left, right].map(({ result }) => result);
    const [one, other] = [a, b].map(({ predictions: [first] }) => first);
    const of = (result, name) => result.predictions.find((p) => p.class === name)?.confidence;
    if (one.class === other.class) {
      const gap = percent(Math.abs(one.confidence - other.confidence));
      return h("p", { class: "muted", text: `Both are heard as ${className(one.class)}, ${gap} apart in confidence.` });
    }
    const crossed = (result, name) =>
      of(result, name) === undefined ? "not among its classes" : percent(of(result, name), 1);
    return h("p", {
      class: "muted",
      text: `${className(one.class)} gets ${crossed(b, one.class)} on the right; ${className(other.class)} gets ${crossed(a, other.class)} on the left.`,
    });
  }

  function side({ name, result }) {
    const stages = [...result.maps.keys()].filter((layer) => !layer.includes("."));
    return h(
      "div",
      { class: "side" },
      h("h3", { text: name }),
      h("p", { class: "muted", text: result.model }),
      bars(result.predictions.slice(0, CLASSES)),
      figure("Log-mel spectrogram", result.spectrogram, "soundColours"),
      stages.map((layer) => figure(layer, result.maps.get(layer), "mapColours")),
    );
  }

  function figure(title, matrix, colours) {
    if (!matrix) return null;
    const canvas = h("canvas", {
      width: 512,
      height: colours === "soundColours" ? 160 : 80,
      role: "img",
      "aria-label": title,
      data: { colours },
    });
    canvas.matrix = matrix;
    return h("figure", {}, h("figcaption", { text: title }), canvas);
  }

  /** Spectrograms share their scale, and so do the maps of one layer where both results have it. */
  function drawAll() {
    const [ones, others] = [...root.querySelectorAll(".side")].map((one) => [...one.querySelectorAll("canvas")]);
    const scaleOf = (canvas) => {
      const label = canvas.getAttribute("aria-label");
      const pair = [ones, others]
        .map((list) => list.find((one) => one.getAttribute("aria-label") === label))
        .filter(Boolean);
      const known = pair.map((one) => one.matrix.statistics);
      const max = Math.max(...known.map((one) => one.max));
      const min =
        canvas.dataset.colours === "soundColours"
          ? max - settings.get("range")
          : Math.min(...known.map((one) => one.min));
      return { min, max };
    };
    for (const canvas of [...ones, ...others]) {
      paint(canvas, canvas.matrix, { colours: settings.get(canvas.dataset.colours), ...scaleOf(canvas), smooth: true });
    }
  }

  return { show };
}
