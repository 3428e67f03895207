// Inside the network: all of it at once, and below it whichever part was opened.

import { chooser } from "../chooser.js";
import { announce, button, h } from "../dom.js";
import { library } from "../library.js";
import { NAMES } from "../paint/painter.js";
import { settings } from "../settings.js";
import { detail } from "./detail.js";
import { network } from "./graph.js";
import { overview } from "./overview.js";
import { LOOK } from "./scale.js";
import { sentence, spoken } from "./words.js";

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

export function mountInside(root) {
  let shown = {}; // sound, result, card, file: what is drawn
  let net = null;
  let all = null; // overview
  let opened = null; // {id, view}
  let place = null; // where an opened part goes

  settings.watch(LOOK, () => {
    all?.repaint();
    opened?.view.repaint();
  });

  function show(sound, card) {
    const { result, file } = sound;
    if (sound === shown.sound && result === shown.result && card === shown.card) {
      if (file !== shown.file) came(sound);
      return;
    }
    const wanted = opened?.id;
    clear();
    shown = { sound, result, card, file };
    if (!result) return;
    if (!card) return say(`The model ${result.model} is no longer served, so its layers are not known here.`);
    if (!result.maps.size) return say("This result was made without looking inside: it has no maps.", again(sound));
    net = network(card, result);
    all = overview(net, result, toggle);
    place = h("div", { class: "place" });
    const missing = (shown.missing = card.layers.filter(({ name }) => !result.maps.has(name)).length);
    root.replaceChildren(
      h(
        "section",
        { class: "panel inside", "aria-label": "Inside the network", on: { keydown: key } },
        h(
          "header",
          {},
          h("h2", { text: "Inside the network" }),
          h("p", { class: "muted", text: summary(card) }),
          tools(),
        ),
        missing ? h("div", { class: "missing" }, h("p", { text: lacking(missing, card) }), again(sound)) : null,
        all.element,
        place,
      ),
    );
    if (wanted && all.ids.includes(wanted)) open(wanted);
  }

  /** A reopened result has its sound again. */
  function came(sound) {
    const { card } = shown;
    shown.file = sound.file;
    if (net && shown.missing === 0) return opened?.view.fileCame();
    shown = {};
    show(sound, card);
  }

  function clear() {
    opened?.view.close();
    all?.close();
    [net, all, opened] = [null, null, null];
    root.replaceChildren();
  }

  function say(text, ...more) {
    root.replaceChildren(
      h(
        "section",
        { class: "panel inside", "aria-label": "Inside the network" },
        h("header", {}, h("h2", { text: "Inside the network" })),
        h("div", { class: "missing" }, h("p", { text }), ...more),
      ),
    );
  }

  function toggle(id) {
    if (opened?.id === id) close();
    else {
      open(id);
      const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
      const below = place.getBoundingClientRect().top + 260 > innerHeight;
      if (below) root.firstChild.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
    }
  }

  function open(id) {
    opened?.view.close();
    const { sound } = shown;
    opened = { id, view: detail({ net, sound, id, onStep: step, onClose: close }) };
    place.replaceChildren(opened.view.element);
    root.firstChild.toggleAttribute("data-open", true);
    all.mark(id);
    const node = net.nodes.get(id);
    announce(`${spoken(node)} opened. ${sentence(node, net)}`);
  }

  /** Open the next part or the one before; the focus stays where it was. */
  function step(by) {
    const to = all.ids[all.ids.indexOf(opened.id) + by];
    if (!to) return;
    const held = document.activeElement;
    const within = place.contains(held);
    const pressed = within ? held.dataset.step : null;
    open(to);
    if (pressed) place.querySelector(`[data-step="${pressed}"]`).focus();
    else if (within) place.firstChild.focus({ preventScroll: true });
  }

  function close() {
    if (!opened) return;
    const { id, view } = opened;
    const within = place.contains(document.activeElement);
    view.close();
    opened = null;
    place.replaceChildren();
    root.firstChild.toggleAttribute("data-open", false);
    all.mark(null);
    if (within) all.focus(id);
  }

  function key(event) {
    if (event.key === "Escape" && opened) {
      close();
      return event.stopPropagation();
    }
    const by = STEPS[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("select, input, [role='listbox'], [role='application']")) return;
    const held = event.target.closest(".node")?.dataset.id;
    if (!held && !opened) return;
    event.preventDefault();
    event.stopPropagation();
    if (!held) return step(by);
    const to = all.ids[all.ids.indexOf(held) + by];
    if (!to) return;
    all.focus(to);
    if (opened) open(to);
  }

  return { show };
}

/** How large the network is, in a line. */
function summary({ name, parameters, layers }) {
  const blocks = layers.filter(({ kind }) => kind === "residual" || kind === "plain").length;
  const parts = blocks ? `${blocks} blocks` : `${layers.length} stages`;
  return `${name}: ${parts}, ${parameters.toLocaleString("en")} parameters`;
}

const lacking = (missing, { layers }) =>
  `${missing} of ${layers.length} layers have no map in this result; the model may have changed since.`;

function again(sound) {
  return sound.file ? button("Classify again", "retry", () => library.again(sound)) : chooser(() => sound);
}

function tools() {
  const colours = h(
    "select",
    { "aria-label": "Colours of the maps" },
    NAMES.map((name) => h("option", { value: name, text: name, selected: name === settings.get("mapColours") })),
  );
  colours.addEventListener("change", () => settings.set("mapColours", colours.value));
  const scale = h(
    "select",
    { "aria-label": "Colour scale of the maps" },
    h("option", { value: "own", text: "own scale for each map" }),
    h("option", { value: "shared", text: "one scale for all maps", selected: settings.get("sharedScale") }),
  );
  scale.addEventListener("change", () => settings.set("sharedScale", scale.value === "shared"));
  return h("div", { class: "tools" }, colours, scale);
}
