// The events of a long sound: the list with times, the totals of each class, and the export.

import { classHues } from "./class-colours.js";
import { button, download, h, toast } from "../view/dom.js";
import { className, clock, formatDuration, percent } from "../view/format.js";
import { playhead } from "../state/playhead.js";
import { eventTotals } from "./verdict.js";
import { viewport } from "../state/viewport.js";
import { t } from "../words.js";

/** @import { Detection, Result } from "../server/types.js" */

const MOST = 300; // events that are listed; the export has all

/** Formats of the export: value of `format`, and name. */
const FORMATS = /** @type {const} */ ([
  ["audacity", t("events.audacity")],
  ["raven", t("events.raven")],
  ["csv", "CSV"],
  ["json", "JSON"],
  ["webvtt", "WebVTT"],
  ["jams", "JAMS"],
]);

/**
 * A patch in the colour of a class.
 * @param {number | undefined} hue  degrees
 */
export function swatch(hue) {
  const patch = h("i", { class: "swatch", "aria-hidden": "true" });
  patch.style.setProperty("--hue", String(hue ?? 0));
  return patch;
}

/**
 * The classes of a result with their colours: those with events, with number and length where there are several, and
 * those that are only the first of a window.
 * @param {Result} result
 */
export function legend(result) {
  const hues = classHues(result);
  const totals = eventTotals(result.detections ?? []);
  const others = [...hues.keys()].filter((name) => !totals.some((total) => total.name === name));
  return h(
    "ul",
    { class: "event-legend", "aria-label": t("events.classes") },
    totals.map(({ name, count, seconds }) =>
      entry(name, count > 1 ? h("span", { class: "muted number", text: `${count} ×, ${formatDuration(seconds)}` }) : null),
    ),
    others.map((name) => entry(name)),
  );

  /** @param {string} name @param {HTMLElement | null} [total] */
  function entry(name, total = null) {
    return h("li", {}, swatch(hues.get(name)), h("span", { text: className(name) }), total);
  }
}

/**
 * The list of events. An event is a button that moves the playhead to it.
 * @param {Result} result
 * @param {string} id  of its job
 */
export function eventList(result, id) {
  const events = result.detections ?? [];
  const hues = classHues(result);
  const rest = events.length - MOST;
  return h(
    "section",
    { class: "events", "aria-label": t("events.title") },
    h(
      "ol",
      { class: "event-list" },
      events.slice(0, MOST).map((event) => h("li", {}, eventButton(event, hues.get(event.class)))),
    ),
    rest > 0 ? h("p", { class: "muted", text: t("events.rest", { count: rest }) }) : null,
    exporter(id),
  );
}

/**
 * @param {Detection} event
 * @param {number | undefined} hue
 */
function eventButton(event, hue) {
  const { class: name, start, end, confidence } = event;
  return h(
    "button",
    { type: "button", class: "event", on: { click: () => showEvent(event) } },
    swatch(hue),
    h("span", { class: "class", text: className(name) }),
    h("span", { class: "number", text: `${clock(start)} – ${clock(end)}` }),
    h("span", { class: "number muted", text: percent(confidence) }),
  );
}

/**
 * Move the playhead to an event, and the visible region where the event lies outside of it.
 * @param {Detection} event
 */
export function showEvent({ start, end }) {
  playhead.seek(start);
  if (start >= viewport.start && end <= viewport.end) return;
  const length = Math.max(viewport.end - viewport.start, 1.2 * (end - start));
  const middle = (start + end) / 2;
  viewport.show(middle - length / 2, middle + length / 2);
}

/** @param {string} id  of a job */
function exporter(id) {
  const select = h(
    "select",
    { "aria-label": t("events.format") },
    FORMATS.map(([value, text]) => h("option", { value, text })),
  );
  const save = async () => {
    const response = await fetch(`/v1/jobs/${id}/detections?format=${select.value}`).catch(() => null);
    const body = response?.ok ? await response.blob().catch(() => null) : null;
    const named = /filename\*=UTF-8''([^;]+)/.exec(response?.headers.get("Content-Disposition") ?? "")?.[1];
    if (body) download(body, named ? decodeURIComponent(named) : `detections.${select.value}`);
    else toast(response && !response.ok ? t("events.gone") : t("common.no_response"));
  };
  return h("div", { class: "export" }, select, button(t("events.save"), "save", save));
}
