// Builds elements without parsing HTML: text from a file or a server can only ever become text.

import { t } from "../words.js";

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {string | number | boolean | null | undefined} AttributeValue
 * @typedef {{[Name in keyof HTMLElementEventMap]?: (event: HTMLElementEventMap[Name]) => void}} Listeners
 * @typedef {Record<string, string | number>} Dataset
 * @typedef {{on?: Listeners, data?: Dataset, [attribute: string]: AttributeValue | Listeners | Dataset}} Props
 * @typedef {Node | string | null | undefined | false} Child
 */

/**
 * An HTML element. Props: `class`, `text`, `on: {event: listener}`, `data: {key: value}`; every other key is an attribute.
 * Attributes and children that are null, undefined or false are left out.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  setProps(element, props);
  element.append(...present(children));
  return element;
}

/**
 * An SVG element, in the same way.
 * @template {keyof SVGElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Props} [props]
 * @param {...(Child | Child[])} children
 * @returns {SVGElementTagNameMap[Tag]}
 */
export function s(tag, props = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  setProps(element, props);
  element.append(...present(children));
  return element;
}

/**
 * @param {HTMLElement | SVGElement} element
 * @param {Props} props
 */
function setProps(element, { on, data, ...attributes }) {
  for (const [event, listener] of Object.entries(on ?? {})) {
    element.addEventListener(event, /** @type {EventListener} */ (listener));
  }
  for (const [key, value] of Object.entries(data ?? {})) element.dataset[key] = String(value);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = String(value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/**
 * Children without those that are left out. The DOM's own append() and replaceChildren() would print `null`.
 * @param {(Child | Child[])[]} children
 * @returns {(Node | string)[]}
 */
export function present(children) {
  return children.flat().filter((child) => child !== null && child !== undefined && child !== false);
}

/**
 * The element of index.html with that id.
 * @template {HTMLElement} [Kind=HTMLElement]
 * @param {string} id
 * @param {{new (): Kind}} [kind]  its class, where more than an HTMLElement is needed
 * @returns {Kind}
 */
export function byId(id, kind) {
  const element = document.getElementById(id);
  if (!element || (kind && !(element instanceof kind))) throw new Error(`The page has no such element: #${id}`);
  return /** @type {Kind} */ (element);
}

/**
 * The first HTML element below `root` that a selector matches, or null.
 * @param {ParentNode} root
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export const find = (root, selector) => root.querySelector(selector);

/**
 * The element that an event happened on, or the nearest one around it, that a selector matches.
 * @param {Event} event
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export const closest = ({ target }, selector) => (target instanceof Element ? target.closest(selector) : null);

/**
 * An icon of the sprite in index.html.
 * @param {string} name
 */
export function icon(name) {
  return s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#icon-${name}` }));
}

/**
 * A button with an icon and a label; `quiet` keeps the label for screen readers and as a tooltip.
 * @param {string} label
 * @param {string | null} iconName
 * @param {(event: MouseEvent) => void} onClick
 * @param {{quiet?: boolean, [attribute: string]: AttributeValue}} [props]
 */
export function button(label, iconName, onClick, { quiet = false, ...props } = {}) {
  return h(
    "button",
    { type: "button", ...(quiet ? { "aria-label": label, title: label } : {}), ...props, on: { click: onClick } },
    iconName ? icon(iconName) : null,
    quiet ? null : h("span", { text: label }),
  );
}

/**
 * The 2D context of a canvas.
 * @param {HTMLCanvasElement} canvas
 */
export function context2d(canvas) {
  const context = canvas.getContext("2d");
  if (!context) throw new Error(t("dom.no_memory"));
  return context;
}

/**
 * Let screen readers say a text without moving the focus.
 * @param {string} text
 */
export function announce(text) {
  byId("announcer").textContent = text;
}

/**
 * Save bytes under a file name.
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Save the content of a canvas as a PNG file.
 * @param {HTMLCanvasElement} canvas
 * @param {string} name
 */
export function downloadCanvas(canvas, name) {
  canvas.toBlob((blob) => {
    if (blob) download(blob, name);
    else toast(t("dom.no_picture"));
  }, "image/png");
}

/**
 * Show a short notice for a moment.
 * @param {string} text
 */
export function toast(text) {
  announce(text);
  find(document, ".toast")?.remove();
  const note = h("p", { class: "toast", "aria-hidden": "true", text });
  document.body.append(note);
  setTimeout(() => note.remove(), 2_500);
}
