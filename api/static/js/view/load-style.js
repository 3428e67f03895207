// Stylesheets that only a part of the page needs.

import { h } from "./dom.js";

/**
 * Load a stylesheet of `style/` once.
 * @param {string} name
 * @returns {Promise<void>}
 */
export function loadStyle(name) {
  return new Promise((resolve, reject) => {
    const { href } = new URL(`../../style/${name}.css`, import.meta.url);
    if (document.querySelector(`link[href="${href}"]`)) return resolve();
    const link = h("link", { rel: "stylesheet", href });
    link.onload = () => resolve();
    link.onerror = () => {
      link.remove();
      reject(new Error(`${name}.css could not be loaded.`));
    };
    document.head.append(link);
  });
}
