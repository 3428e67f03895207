// The key of a service that asks for one: asked for, kept in a cookie, forgotten on request. A cookie, since an
// EventSource cannot send a header; for this site alone, and for a month.

import { announce, h } from "./dom.js";
import * as server from "./server.js";

const NAME = "otoscope_key";
const FORM = /^oto_[0-9a-f]{8}_[0-9a-f]{64}$/;
const MONTH = 30 * 24 * 3_600; // seconds

/** Fill `root` with the form, shown when the server asks for a key; `forget` is the button that drops the one there is. */
export function mountKey(root, forget) {
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
    { class: "panel", novalidate: true, on: { submit: give } },
    h("h2", { text: "This service asks for a key" }),
    h("p", {
      id: "key-hint",
      class: "muted",
      text: "Its operator makes keys with “otoscope keys create”; this page needs one that may submit and read. This browser keeps it for a month, or until you have it forgotten.",
    }),
    h("label", { for: "key-input", text: "Key" }),
    h("div", { class: "row" }, input, h("button", { class: "primary", text: "Open" })),
    problem,
  );
  root.replaceChildren(form);
  forget.hidden = !document.cookie.split("; ").some((cookie) => cookie.startsWith(`${NAME}=`));
  forget.addEventListener("click", () => {
    keep("", 0);
    location.reload(); // what it had opened goes as well
  });
  server.door.addEventListener("asked", () => {
    if (!root.hidden) return;
    root.hidden = false;
    announce("This service asks for a key.");
    input.focus();
  });

  async function give(event) {
    event.preventDefault();
    const key = input.value.trim();
    if (!FORM.test(key)) return say("That is no key: one begins with oto_ and is 77 characters long.");
    keep(key, MONTH);
    try {
      await server.models();
    } catch (error) {
      if (error instanceof server.Refused && [401, 403].includes(error.status)) {
        keep("", 0);
        return say(error.detail);
      }
      if (error instanceof server.Unreachable) return say(error.message);
    }
    say("");
    input.value = "";
    root.hidden = true;
    forget.hidden = false;
    announce("The service is open.");
    server.door.dispatchEvent(new Event("opened"));
  }

  function say(text) {
    problem.textContent = text;
    problem.hidden = !text;
    input.setAttribute("aria-invalid", Boolean(text));
    if (text) input.focus();
  }
}

function keep(key, seconds) {
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${NAME}=${key}; Path=/; Max-Age=${seconds}; SameSite=Strict${secure}`;
}
