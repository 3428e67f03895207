// Elements without HTML text: what comes from a file or a server can only ever become text.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Props: `class`, `text`, `on: {event: listener}`, `data: {key: value}`; anything else is an attribute. */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on")
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An icon of the sprite in index.html. */
export function icon(name) {
  return s("svg", { class: "icon", "aria-hidden": "true" }, s("use", { href: `#icon-${name}` }));
}

/** A button with an icon and a label; `quiet` keeps the label for screen readers and as a tooltip. */
export function button(label, name, onClick, { quiet = false, ...props } = {}) {
  return h(
    "button",
    { type: "button", ...(quiet ? { "aria-label": label, title: label } : {}), ...props, on: { click: onClick } },
    name ? icon(name) : null,
    quiet ? null : h("span", { text: label }),
  );
}

/** Say something to screen readers without moving the focus. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Save bytes under a name. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** What is drawn on a canvas as a PNG file. */
export function downloadCanvas(canvas, name) {
  canvas.toBlob((blob) => download(blob, name), "image/png");
}

/** Say something to everybody for a moment. */
export function toast(text) {
  announce(text);
  document.querySelector(".toast")?.remove();
  const note = h("p", { class: "toast", "aria-hidden": "true", text });
  document.body.append(note);
  setTimeout(() => note.remove(), 2_500);
}
