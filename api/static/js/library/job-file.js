// The file of a result that was opened by its link, where it can be had: kept by the server, or a sample of this page.

import { getSound } from "../server/api.js";
import { samples } from "./samples.js";

/** @import { Job } from "../server/types.js" */

/**
 * @param {Job} job
 * @returns {Promise<File | null>}
 */
export async function fileOfJob({ audio, links }) {
  const sample = samples.find(({ file }) => file === audio.name);
  const address = links?.audio ?? (sample && new URL(`../../sounds/${sample.file}`, import.meta.url).href);
  const sound = address ? await getSound(address).catch(() => null) : null;
  return sound && new File([sound], audio.name ?? "", { type: sound.type });
}
