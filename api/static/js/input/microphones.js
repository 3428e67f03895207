// The choice of the device that records. The names of devices are known once the visitor has allowed the microphone.

import { h } from "../view/dom.js";
import { settings } from "../state/settings.js";
import { t } from "../words.js";

/** @import { Recording } from "./recorder.js" */

/**
 * A list of the devices, hidden where there is one only. A choice applies at once, and to later recordings.
 * @param {Recording} recording
 * @returns {HTMLSelectElement}
 */
export function microphoneList(recording) {
  const list = h("select", { class: "microphones", "aria-label": t("recorder.device"), hidden: true });
  list.addEventListener("change", async () => {
    list.disabled = true;
    try {
      await recording.use(list.value);
      settings.set("microphone", list.value);
    } catch {
      // the device before goes on
    }
    list.value = recording.device;
    list.disabled = false;
    list.focus();
  });
  const fill = async () => {
    const devices = await navigator.mediaDevices.enumerateDevices();
    const inputs = devices.filter(({ kind, deviceId }) => kind === "audioinput" && deviceId);
    const name = (/** @type {string} */ label, /** @type {number} */ i) => label || t("recorder.unnamed", { number: i + 1 });
    list.replaceChildren(...inputs.map(({ deviceId, label }, i) => h("option", { value: deviceId, text: name(label, i) })));
    list.value = recording.device;
    list.hidden = inputs.length < 2;
  };
  fill();
  navigator.mediaDevices.addEventListener("devicechange", fill);
  recording.finished.catch(() => {}).finally(() => navigator.mediaDevices.removeEventListener("devicechange", fill));
  return list;
}
