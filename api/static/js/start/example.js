// The sound with which the page opens for a visitor who has none yet: a synthetic siren, whose result was prepared by
// docs/example.py. Nothing is sent.

import { getExample } from "../server/api.js";
import { library } from "../library/library.js";
import { Sound } from "../library/sound.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";

/** @import { ModelCard } from "../server/types.js" */

const FILE = "siren.flac";

/**
 * Show it, unless another sound was added meanwhile.
 * @param {(card: ModelCard) => void} onCard  gets the card of its model
 */
export async function showExample(onCard) {
  const { job, card } = await getExample();
  if (library.sounds.length) return;
  onCard(card);
  const sound = new Sound({ name: t("example.name"), example: true });
  Object.assign(sound, { phase: "succeeded", job, result: job.result, view: job.result });
  library.restore([sound]);
  library.select(sound);
  library.on("list", () => {
    if (!library.sounds.includes(sound)) settings.set("example", false); // removed: it does not come back
  });
  const response = await fetch(new URL(`../../sounds/${FILE}`, import.meta.url));
  if (response.ok) library.attach(sound, new File([await response.blob()], FILE, { type: "audio/flac" }));
}
