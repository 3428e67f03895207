// All channels of one layer, which a result does not have.

import { FINAL, follow } from "../follow.js";
import * as server from "../server.js";

/**
 * All channels of one layer, and of a residual block its `.residual` and `.shortcut`: Map of name -> [Matrix].
 * The server keeps no sound, so it is sent once more; the answer is kept. Rejects with server.Refused or Unreachable, or with
 * an Error where the page does not have the file.
 */
export function lookInto(sound, layer) {
  if (!sound.looks.has(layer)) {
    const asked = ask(sound, layer);
    sound.looks.set(layer, asked);
    asked.catch(() => sound.looks.delete(layer));
  }
  return sound.looks.get(layer);
}

async function ask(sound, layer) {
  if (!sound.file) throw new Error("The server keeps no sound: choose the file again to look further.");
  const options = { model: sound.result.model, top_k: 1, layer, window: sound.result.window };
  let job = await server.submit(sound.file, options, server.newKey()).promise;
  job = await new Promise((resolve, reject) =>
    follow(job.id, {
      onJob: (now) => FINAL.includes(now.status) && resolve(now),
      onLost: () => {},
      onBack: () => {},
      onGone: reject,
    }),
  );
  if (job.status !== "succeeded") throw new Error(job.error?.detail ?? `The look was ${job.status}.`);
  const { channels } = job.result ?? (await server.result(job.id));
  server.cancel(job.id).catch(() => {}); // forgotten: the page has it
  return channels;
}
