// Requests the maps of another window, or the class activation of another class. The file is sent again.

import { announce, toast } from "../view/dom.js";
import { className, clock } from "../view/format.js";
import { library } from "./library.js";
import { sendAgain } from "../server/send-again.js";
import { t } from "../words.js";

/** @import { Result } from "../server/types.js" */
/** @import { Sound } from "./sound.js" */

/**
 * Show the feature maps of a window and the class activation of a class in it, when they have come. The last request wins;
 * an error is shown for a moment.
 * @param {Sound} sound
 * @param {number} window  its index
 * @param {string} camClass
 */
export async function lookInto(sound, window, camClass) {
  const { result, attempt, view } = sound;
  if (!result) return;
  const look = { window, camClass };
  if (view?.window === window && view.camClass === camClass) {
    if (sound.looking) library.setView(sound, { looking: null });
    return;
  }
  library.setView(sound, { looking: look });
  /** Whether nothing else has been requested meanwhile. */
  const wanted = () => sound.attempt === attempt && sound.looking === look;
  try {
    const again = await fetchLook(sound, result, window, camClass);
    if (!wanted()) return;
    const { maps, cam, spectrogram } = again;
    const detail = result.averaged ? spectrogram : null;
    const next = again === result ? result : { ...result, window, camClass, maps, cam, detail };
    library.setView(sound, { looking: null, view: next });
    const span = result.windows?.[window];
    const values = { class: className(camClass), start: clock(span?.start ?? 0), end: clock(span?.end ?? 0) };
    announce(t(span && result.windows?.[1] ? "look.window" : "look.whole", values));
  } catch (error) {
    if (!wanted()) return;
    library.setView(sound, { looking: null });
    toast(error instanceof Error ? error.message : String(error));
  }
}

/**
 * @param {Sound} sound
 * @param {Result} result  of its job
 * @param {number} window
 * @param {string} camClass
 * @returns {Promise<Result>} cached
 */
function fetchLook(sound, result, window, camClass) {
  if (window === result.window && camClass === result.camClass) return Promise.resolve(result);
  const key = `${window} ${camClass}`;
  const cached = sound.lookRequests.get(key);
  if (cached) return cached;
  const include = result.averaged ? "maps,cam,windows,spectrogram" : "maps,cam,windows";
  const options = { include, window, cam_class: camClass };
  const request = sendAgain(sound, options, t("purpose.look")).then((again) => {
    if (again.windows?.length === result.windows?.length) return again;
    throw new Error(t("look.other_windows"));
  });
  sound.lookRequests.set(key, request);
  request.catch(() => sound.lookRequests.delete(key));
  return request;
}
