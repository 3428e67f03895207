// The words of the page in the visitor's language: the first one of the browser's list that there is a file for.

/** @typedef {keyof typeof import("./words/en.js").words} Key */
/** @typedef {Record<string, string | number>} Values */

const LANGUAGES = ["en", "de"]; // each has a file in words/

/** Written from right to left. Ready for such a file; the two that exist are not. */
const RIGHT_TO_LEFT = ["ar", "fa", "he", "ur"];

export const language =
  navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((one) => LANGUAGES.includes(one)) ?? "en";

/** @type {{words: Record<Key, string>}} */
const { words } = await import(`./words/${language}.js`);

document.documentElement.lang = language;
document.documentElement.dir = RIGHT_TO_LEFT.includes(language) ? "rtl" : "ltr";

/**
 * A text of the page. `{name}` in it is replaced by that value. Of a text with ` | ` the first form is for the `count` 1.
 * @param {Key} key
 * @param {Values} [values]
 */
export function t(key, values = {}) {
  const forms = words[key].split(" | ");
  const form = forms[Number(values.count) === 1 ? 0 : forms.length - 1];
  return form.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}
