// The list of sounds: each with its own progress, its answer, and a way out.

import { button, h } from "./dom.js";
import { className, percent } from "./format.js";
import { library } from "./library.js";

/** Keep the list in step with the library. */
export function mountList(root) {
  const list = h("ul", { class: "sounds" });
  root.replaceChildren(list);
  const items = new Map(); // Sound -> <li>

  const draw = (sound) => {
    const item = items.get(sound);
    const { phase, uploaded } = sound;
    item.root.dataset.phase = phase;
    item.root.toggleAttribute("data-selected", sound === library.selected);
    item.pick.setAttribute("aria-current", sound === library.selected);
    item.name.textContent = sound.name;
    item.name.title = sound.name;
    item.state.textContent = state(sound);
    item.progress.hidden = sound.ended || phase === "waiting";
    if (phase === "uploading") item.progress.value = uploaded;
    else item.progress.removeAttribute("value");
    // Not to the button that comes in its place: who meant to cancel must not remove.
    if (sound.ended && item.cancel === document.activeElement) item.pick.focus();
    item.cancel.hidden = sound.ended;
    item.remove.hidden = !sound.ended;
  };

  const add = (sound) => {
    const item = {
      name: h("span", { class: "name" }),
      state: h("span", { class: "state number" }),
      progress: h("progress", { max: 1, "aria-label": "Progress" }),
      cancel: button("Cancel", "stop", () => library.cancel(sound), { quiet: true, class: "quiet" }),
      remove: button("Remove from the list", "close", () => library.remove(sound), { quiet: true, class: "quiet" }),
    };
    item.pick = h(
      "button",
      { type: "button", class: "pick", on: { click: () => library.select(sound) } },
      item.name,
      item.state,
    );
    item.root = h("li", {}, item.pick, h("div", { class: "acts" }, item.cancel, item.remove), item.progress);
    items.set(sound, item);
    return item;
  };

  library.addEventListener("list", () => {
    let left = -1; // where the focus was, if it was in what goes
    for (const [sound, { root: gone }] of items) {
      if (library.sounds.includes(sound)) continue;
      if (gone.contains(document.activeElement)) left = [...list.children].indexOf(gone);
      gone.remove();
      items.delete(sound);
    }
    library.sounds.forEach((sound, at) => {
      const { root: item } = items.get(sound) ?? add(sound);
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
      draw(sound);
    });
    if (left >= 0) items.get(library.sounds[left] ?? library.sounds.at(-1))?.pick.focus();
  });
  library.addEventListener("change", ({ detail }) => items.has(detail) && draw(detail));
  library.addEventListener("select", () => library.sounds.forEach((sound) => items.has(sound) && draw(sound)));
}

/** What is true of a sound now, in a few words. */
export function state(sound) {
  const { phase, job, result } = sound;
  if (!sound.connected && !sound.ended) return "Waiting for the server";
  switch (phase) {
    case "waiting":
      return sound.note || "Waiting for its turn";
    case "uploading":
      return sound.uploaded < 1 ? `Uploading, ${percent(sound.uploaded)}` : "Sent";
    case "queued":
      return job.queue_position ? `Queued, number ${job.queue_position}` : "Queued";
    case "running":
      return "Running";
    case "succeeded":
      return `${className(result.predictions[0].class)}, ${percent(result.predictions[0].confidence)}`;
    case "cancelled":
      return "Cancelled";
    case "gone":
      return "The server has forgotten it";
    default:
      return sound.error?.title ?? "Failed";
  }
}
