// The header of the panel: the name of the sound, the properties of its file, and buttons.

import { find, h } from "../view/dom.js";
import { formatBytes, formatDuration, formatHertz } from "../view/format.js";
import { t } from "../words.js";

/** @import { Sound } from "../library/sound.js" */

/**
 * @param {Sound} sound
 * @param {...HTMLElement} tools
 */
export const headerOf = (sound, ...tools) => h("header", {}, titleOf(sound), h("div", { class: "tools" }, tools));

/**
 * Replace the title where it has changed; the buttons stay the same.
 * @param {HTMLElement} header  of headerOf
 * @param {Sound} sound
 */
export function updateTitle(header, sound) {
  const title = find(header, ".title");
  const now = titleOf(sound);
  if (!title?.isEqualNode(now)) title?.replaceWith(now);
}

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
