// The API key of a service that requires one: entered, stored in a cookie, deleted on request. A cookie, since an EventSource
// cannot send a header; for this site alone, and for a month.

import * as api from "./api.js";
import { announce, h } from "../view/dom.js";
import { t } from "../words.js";

const COOKIE = "otoscope_key";
const PATTERN = /^oto_[0-9a-f]{8}_[0-9a-f]{64}$/;
const MONTH = 30 * 24 * 3_600; // seconds

/**
 * @param {HTMLElement} root  gets the form, which is shown when the server requires a key
 * @param {HTMLElement} forget  the button that deletes the stored key
 */
export function mountApiKey(root, forget) {
  const input = h("input", {
    id: "key-input",
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    "aria-describedby": "key-hint key-problem",
  });
  const problem = h("p", { id: "key-problem", class: "problem", role: "alert", hidden: true });
  const form = h(
    "form",
    { class: "panel", novalidate: true, on: { submit } },
    h("h2", { text: t("key.title") }),
    h("p", {
      id: "key-hint",
      class: "muted",
      text: t("key.text"),
    }),
    h("label", { for: "key-input", text: t("key.key") }),
    h("div", { class: "row" }, input, h("button", { class: "primary", text: t("key.sign_in") })),
    problem,
  );
  root.replaceChildren(form);
  forget.hidden = !document.cookie.split("; ").some((cookie) => cookie.startsWith(`${COOKIE}=`));
  forget.addEventListener("click", () => {
    store("", 0);
    location.reload(); // so that whatever the key gave access to disappears as well
  });
  api.authentication.on("required", () => {
    if (!root.hidden) return;
    root.hidden = false;
    announce(t("key.required"));
    input.focus();
  });

  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    const key = input.value.trim();
    if (!PATTERN.test(key)) return showProblem(t("key.malformed"));
    store(key, MONTH);
    try {
      await api.getModels();
    } catch (error) {
      if (error instanceof api.Refused && [401, 403].includes(error.status)) {
        store("", 0);
        return showProblem(error.message);
      }
      if (error instanceof api.Unreachable) return showProblem(error.message);
    }
    showProblem("");
    input.value = "";
    root.hidden = true;
    forget.hidden = false;
    announce(t("key.accepted"));
    api.authentication.emit("granted", null);
  }

  /** @param {string} text  empty: none */
  function showProblem(text) {
    problem.textContent = text;
    problem.hidden = !text;
    input.setAttribute("aria-invalid", String(Boolean(text)));
    if (text) input.focus();
  }
}

/**
 * @param {string} key
 * @param {number} seconds  that the cookie is kept; 0 deletes it
 */
function store(key, seconds) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${COOKIE}=${key}; Path=/; Max-Age=${seconds}; SameSite=Strict${secure}`;
}
