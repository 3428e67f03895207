// The page: what is where, and who is told what. What only a result needs is fetched after the first paint.

import { announce, h, icon } from "./dom.js";
import { mountIntake } from "./intake.js";
import { library } from "./library.js";
import { mountKey } from "./key.js";
import { mountList } from "./list.js";
import * as server from "./server.js";
import { settings } from "./settings.js";

const element = (id) => document.getElementById(id);
const cards = new Map(); // model name -> ModelCard
let panels = null; // promise of the panels

mountKey(element("key"), element("forget"));
mountIntake(element("intake"));
mountList(element("list"));
theme(element("theme"));
connection(element("connection"));
models(element("model"));
addEventListener("hashchange", reopen);
element("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the result's
  element("result").focus();
});
addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(load)); // after the first paint

library.addEventListener("list", () => {
  document.body.toggleAttribute("data-empty", library.sounds.length === 0);
});
library.addEventListener("select", () => {
  remember();
  show();
});
library.addEventListener("change", ({ detail: sound }) => {
  if (sound.ended && sound.phase !== sound.told) tell(sound);
  sound.told = sound.phase;
  if (sound !== library.selected) return;
  remember();
  show();
});
reopen();

/** Show the selected sound in every panel: the one that is selected once everything is there that takes time. */
async function show() {
  if (!library.selected) return;
  const loaded = await load();
  const wanted = library.selected?.result?.model;
  if (wanted && !cards.has(wanted)) await readModels().catch(() => {});
  const sound = library.selected;
  if (!sound) return;
  const card = cards.get(sound.result?.model ?? sound.job?.model) ?? null;
  for (const panel of loaded) panel.show(sound, card);
}

/** The panels, fetched once; while the server is away, asked for until they are there. */
function load() {
  panels ??= fetchPanels().catch(async () => {
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    panels = null;
    return load();
  });
  return panels;
}

async function fetchPanels() {
  const [answer, compare, sound, inside] = await Promise.all([
    import("./answer.js"),
    import("./compare.js"),
    import("./sound/panel.js"),
    import("./inside/panel.js"),
    ...["result", "sound", "inside"].map(style),
  ]);
  return [
    answer.mountAnswer(element("answer"), { cards }),
    compare.mountCompare(element("compare")),
    sound.mountSound(element("sound")),
    inside.mountInside(element("inside")),
  ];
}

function style(name) {
  return new Promise((resolve, reject) => {
    const href = `/static/style/${name}.css`;
    if (document.querySelector(`link[href="${href}"]`)) return resolve();
    const link = h("link", { rel: "stylesheet", href });
    link.onload = resolve;
    link.onerror = () => {
      link.remove();
      reject(new Error(`${name}.css cannot be had`));
    };
    document.head.append(link);
  });
}

/** The address of the page is the address of the job on show, so that a reload goes on with it. */
function remember() {
  const id = library.selected?.job?.id ?? library.selected?.opened;
  const hash = id ? `#job=${id}` : "";
  if (location.hash !== hash) history.replaceState(null, "", hash || location.pathname);
  document.title = library.selected ? `${library.selected.name} – Otoscope` : "Otoscope";
}

function reopen() {
  const id = /^#job=([0-9a-f]{32})$/.exec(location.hash)?.[1];
  if (id && library.selected?.job?.id !== id) library.reopen(id);
}

function tell(sound) {
  const first = sound.result?.predictions[0];
  announce(
    first
      ? `${sound.name}: ${first.class}, ${Math.round(100 * first.confidence)} percent`
      : `${sound.name}: ${sound.phase}`,
  );
}

function theme(button) {
  const order = ["auto", "light", "dark"];
  const icons = { auto: "auto", light: "sun", dark: "moon" };
  const names = { auto: "as the system has it", light: "light", dark: "dark" };
  const light = matchMedia("(prefers-color-scheme: light)");
  const apply = () => {
    const chosen = settings.get("theme");
    document.documentElement.dataset.theme = chosen === "auto" ? (light.matches ? "light" : "dark") : chosen;
    button.replaceChildren(icon(icons[chosen]));
    button.title = `Colours: ${names[chosen]}`;
    button.setAttribute("aria-label", button.title);
  };
  light.addEventListener("change", apply);
  settings.watch("theme", apply);
  button.addEventListener("click", () => settings.set("theme", order[(order.indexOf(settings.get("theme")) + 1) % 3]));
}

function connection(banner) {
  library.addEventListener("unreachable", () => {
    banner.textContent = "The server does not answer. What is open here goes on by itself when it is back.";
    banner.hidden = false;
  });
  library.addEventListener("reachable", () => {
    banner.hidden = true;
    announce("The server is back.");
  });
}

async function readModels() {
  const listed = await server.models();
  for (const card of listed.models) cards.set(card.name, card);
  return listed;
}

/** The model picker: what is served, asked again while nothing is. */
async function models(select) {
  const listed = await readModels().catch((error) => ({ models: [], error }));
  if (!listed.models.length) {
    const why = listed.error?.status === 401 ? "a key is needed" : "the server does not answer";
    select.replaceChildren(h("option", { text: listed.error ? why : "no model is served yet" }));
    server.later(listed.error, () => models(select), 3_000);
    return;
  }
  const wanted = cards.has(settings.get("model")) ? settings.get("model") : listed.default;
  select.replaceChildren(
    ...listed.models.map(({ name, description }) =>
      h("option", { value: name, text: name, title: description, selected: name === wanted }),
    ),
  );
  select.disabled = false;
  if (settings.get("model")) settings.set("model", wanted); // what was remembered may be served no more
  select.addEventListener("change", () => settings.set("model", select.value));
}
