// The words of the page in the visitor's language: the first one of the browser's list that there is a file for.

/** @typedef {keyof typeof import("./words/en.js").words} Key */
/** @typedef {Record<string, string | number>} Values */

const LANGUAGES = ["en", "de"]; // each has a file in words/

/** Written from right to left. Ready for such a file; the two that exist are not. */
const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];

export const language =
  navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((one) => LANGUAGES.includes(one)) ?? "en";

/** @type {[{words: Record<string, string>, errors: Record<string, string[]>}, {classes: Record<string, string>}]} */
const [{ words, errors }, { classes }] = await Promise.all([
  import(`./words/${language}.js`),
  language === "en" ? { classes: {} } : import(`./words/classes/${language}.js`),
]);

/** What classes are called, where that is not their name. */
export const classWords = new Map(Object.entries(classes));

/** Title and text of the server's errors by code; none in English, which the server writes. */
export const errorWords = errors;

/** Where there is no mouse, texts about pointing and clicking have another form, under their key and `.touch`. */
const touch = matchMedia("(pointer: coarse)").matches;

document.documentElement.lang = language;
document.documentElement.dir = RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";

/**
 * A text of the page. `{name}` in it is replaced by that value. Of a text with ` | ` the first form is for the `count` 1.
 * @param {Key} key
 * @param {Values} [values]
 */
export function t(key, values = {}) {
  const text = (touch && words[`${key}.touch`]) || words[key];
  const forms = text.split(" | ");
  const form = forms[Number(values.count) === 1 ? 0 : forms.length - 1];
  return fill(form, values);
}

/**
 * A text with its values in the place of their names in braces; a name without a value stays.
 * @param {string} text
 * @param {Values} values
 */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

// The texts of index.html, which are English there: `data-t` has the key of an element's text, `data-t-label` of its label.
for (const element of language === "en" ? [] : document.querySelectorAll("[data-t], [data-t-label]")) {
  if (!(element instanceof HTMLElement)) continue;
  const { t: text, tLabel: label } = element.dataset;
  if (text) element.textContent = t(/** @type {Key} */ (text));
  if (label) element.setAttribute("aria-label", t(/** @type {Key} */ (label)));
}
