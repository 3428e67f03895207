// Entry point: builds the panels and passes the selected sound to them. What only a result needs is loaded after the first
// paint.

import * as api from "./server/api.js";
import { mountApiKey } from "./server/api-key.js";
import { announce, byId, h, icon } from "./view/dom.js";
import { library } from "./library/library.js";
import { loadStyle } from "./view/load-style.js";
import { loadPart, reachability } from "./server/reachability.js";
import { settings } from "./state/settings.js";
import { mountSoundList, stateText } from "./library/sound-list.js";
import { mountUpload } from "./input/upload.js";
import { keepVisit } from "./library/visit.js";
import { answerText } from "./result/verdict.js";
import { t } from "./words.js";

/** @import { ModelCard } from "./server/types.js" */
/** @import { Phase, Sound } from "./library/sound.js" */

/** @typedef {{show(sound: Sound, card: ModelCard | null): void}} Panel */

/** By model name. @type {Map<string, ModelCard>} */
const cards = new Map();
/** @type {Promise<Panel[]> | null} */
let panels = null;
/** The last phase of a sound that screen readers were notified of. @type {WeakMap<Sound, Phase>} */
const announced = new WeakMap();

mountApiKey(byId("key"), byId("forget"));
mountUpload(byId("upload"));
mountSoundList(byId("list"));
mountTheme(byId("theme"));
mountConnection(byId("connection"));
mountModels(byId("model", HTMLSelectElement));
mountModelCards(byId("models"));
addEventListener("hashchange", openLink);
addEventListener("popstate", ({ state }) => {
  const sound = library.sounds.find(({ key }) => key === state?.sound);
  if (sound) library.select(sound);
});
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the address names the job
  byId("result").focus();
});
// After the first paint. This module waits for the words of the page, so that the document may have been loaded before.
const loadPanelsWhenIdle = () => (window.requestIdleCallback ?? setTimeout)(() => loadPanels());
if (document.readyState === "complete") loadPanelsWhenIdle();
else addEventListener("load", loadPanelsWhenIdle);

library.on("list", () => {
  document.body.toggleAttribute("data-empty", library.sounds.length === 0);
});
library.on("select", () => {
  updateAddress();
  showSelected();
});
library.on("change", (sound) => {
  if (sound.ended && sound.phase !== announced.get(sound)) announceOutcome(sound);
  announced.set(sound, sound.phase);
  if (sound.root !== library.selected) return;
  updateAddress();
  showSelected();
});
keepVisit(byId("visit")).then(openVisit);

/** Show the selected sound in every panel: the one that is selected once everything that takes time has been loaded. */
async function showSelected() {
  if (!library.selected) return;
  const loaded = await loadPanels();
  const model = library.shown?.result?.model;
  if (model && !cards.has(model)) await loadModels().catch(() => {});
  const sound = library.shown;
  if (!sound) return;
  const card = cards.get(sound.result?.model ?? sound.job?.model ?? "") ?? null;
  for (const panel of loaded) panel.show(sound, card);
}

/**
 * The panels, loaded once; retried while the server does not respond.
 * @returns {Promise<Panel[]>}
 */
function loadPanels() {
  panels ??= importPanels().catch(async () => {
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    panels = null;
    return loadPanels();
  });
  return panels;
}

/** @returns {Promise<Panel[]>} */
async function importPanels() {
  const [prediction, compare, sound, network] = await Promise.all([
    import("./result/prediction.js"),
    import("./compare/panel.js"),
    import("./sound/panel.js"),
    import("./network/panel.js"),
    ...["result", "sound", "network", "arithmetic", "compare"].map(loadStyle),
  ]);
  return [
    prediction.mountPrediction(byId("prediction"), cards),
    compare.mountCompare(byId("compare"), cards),
    sound.mountSound(byId("sound")),
    network.mountNetwork(byId("network")),
  ];
}

/**
 * The page's address names the selected job, so that a reload continues with it. Each selected sound has an entry in the
 * history, so that Back returns to the one before.
 */
function updateAddress() {
  const { selected } = library;
  const id = selected?.job?.id ?? selected?.linkedId;
  const address = id ? `#job=${id}` : location.pathname;
  const before = history.state?.sound;
  const state = selected && { sound: selected.key };
  const isOther = before && selected && before !== selected.key && library.sounds.some(({ key }) => key === before);
  if (isOther) history.pushState(state, "", address);
  else if (before !== selected?.key || location.hash !== (id ? address : "")) history.replaceState(state, "", address);
  document.title = library.selected ? `${library.selected.name} – Otoscope` : "Otoscope";
}

/** When the page opens: the sound that its address or this entry of the history names; at the start page the last one. */
function openVisit() {
  if (library.selected) return;
  const { sounds } = library;
  const before = sounds.find(({ key }) => key === history.state?.sound);
  if (before) library.select(before);
  else if (location.hash) openLink();
  else if (sounds.length) library.select(sounds[0]);
  else if (settings.get("example")) {
    import("./start/example.js")
      .then(({ showExample }) => showExample((card) => cards.has(card.name) || cards.set(card.name, card)))
      .catch(() => {}); // without it, the page is as after the example was closed
  }
}

function openLink() {
  const id = /^#job=([0-9a-f]{32})$/.exec(location.hash)?.[1];
  if (id && library.selected?.job?.id !== id) library.reopen(id);
}

/** @param {Sound} sound */
function announceOutcome(sound) {
  const { name, result } = sound;
  announce(`${name}: ${result ? answerText(result).replace(/\s%/, ` ${t("page.percent")}`) : stateText(sound)}`);
}

/** @param {HTMLElement} button */
function mountTheme(button) {
  const themes = ["auto", "light", "dark"];
  /** @type {Record<string, string>} */
  const icons = { auto: "auto", light: "sun", dark: "moon" };
  const light = matchMedia("(prefers-color-scheme: light)");
  const apply = () => {
    const theme = settings.get("theme");
    document.documentElement.dataset.theme = theme === "auto" ? (light.matches ? "light" : "dark") : theme;
    button.replaceChildren(icon(icons[theme]));
    button.title = t(/** @type {"theme.auto"} */ (`theme.${theme}`));
    button.setAttribute("aria-label", button.title);
  };
  light.addEventListener("change", apply);
  addEventListener("beforeprint", () => (document.documentElement.dataset.theme = "light"));
  addEventListener("afterprint", apply);
  settings.watch(["theme"], apply);
  button.addEventListener("click", () => {
    settings.set("theme", themes[(themes.indexOf(settings.get("theme")) + 1) % themes.length]);
  });
}

/** @param {HTMLElement} banner */
function mountConnection(banner) {
  reachability.on("unreachable", () => {
    banner.textContent = t("page.unreachable");
    banner.hidden = false;
  });
  reachability.on("reachable", () => {
    banner.hidden = true;
    announce(t("page.reachable"));
  });
}

async function loadModels() {
  const list = await api.getModels();
  for (const card of list.models) cards.set(card.name, card);
  return list;
}

/** @param {HTMLElement} open  the button that shows the cards */
function mountModelCards(open) {
  open.append(icon("info"));
  open.title = t("models.open");
  open.setAttribute("aria-label", open.title);
  open.addEventListener("click", async () => {
    const loaded = await loadPart(Promise.all([import("./start/model-cards.js"), loadStyle("models")]));
    loaded?.[0].showModelCards([...cards.values()], byId("model", HTMLSelectElement).value);
  });
}

/**
 * The model picker; retried while no model is served.
 * @param {HTMLSelectElement} select
 */
async function mountModels(select) {
  let list;
  let error;
  try {
    list = await loadModels();
  } catch (caught) {
    error = caught;
  }
  if (!list?.models.length) {
    const unauthorized = error instanceof api.Refused && error.status === 401;
    const text = !error
      ? t("page.no_model")
      : unauthorized
        ? t("page.needs_key")
        : t("page.silent_server");
    select.replaceChildren(h("option", { text }));
    api.retryLater(error, () => mountModels(select), 3_000);
    return;
  }
  const stored = settings.get("model");
  const selected = cards.has(stored) ? stored : list.default;
  select.replaceChildren(
    ...list.models.map(({ name, description }) =>
      h("option", { value: name, text: name, title: description, selected: name === selected }),
    ),
  );
  select.disabled = false;
  byId("models", HTMLButtonElement).disabled = false;
  settings.watch(["model"], () => {
    if (cards.has(settings.get("model"))) select.value = settings.get("model");
  });
  if (stored) settings.set("model", selected); // the stored one may no longer be served
  select.addEventListener("change", () => settings.set("model", select.value));
}
