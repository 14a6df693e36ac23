/** The words of <usage-meter>: its languages, and one text with its values filled in. */

import english from "./usage-meter.en.js";

/**
 * A text, or its plural forms by the names that Intl.PluralRules has for them.
 * @typedef {string | Partial<Record<Intl.LDMLPluralRule, string>>} Text
 */
/** @typedef {Record<string, Text>} Texts */

// Languages whose words are files beside this one. A meter fetches them when it needs them.
const SHIPPED = new Set(["de"]);

/** @type {Map<string, Texts>} */
const languages = new Map([["en", english]]);

/**
 * Add the words of a language, or replace some of them.
 * @param {string} lang
 * @param {Texts} texts
 */
export function addTexts(lang, texts) {
  languages.set(lang, { ...languages.get(lang), ...texts });
}

/**
 * Whether a meter in this language can be shown now: its words are here, or nobody ships them.
 * @param {string} lang
 */
export function areTextsHere(lang) {
  return languages.has(baseOf(lang)) || !SHIPPED.has(baseOf(lang));
}

/**
 * Fetch the words of a shipped language. Where they cannot be fetched, English stands in.
 * @param {string} lang
 */
export async function fetchTexts(lang) {
  if (areTextsHere(lang)) return;
  const base = baseOf(lang);
  const file = new URL(`usage-meter.${base}.js`, import.meta.url).href;
  const { default: texts } = await import(file).catch(() => ({ default: {} }));
  languages.set(base, { ...texts, ...languages.get(base) });
}

/**
 * A text by its name, with its values filled in. A text that counts takes the plural form that the
 * language has for `values.count`. Undefined where no language has the name.
 * @param {string} lang
 * @param {Texts} own Words of this one meter, which come before all others.
 * @param {string} name
 * @param {Record<string, unknown>} [values]
 * @returns {string | undefined}
 */
export function findText(lang, own, name, values = {}) {
  const found =
    own[name] ??
    languages.get(lang)?.[name] ??
    languages.get(baseOf(lang))?.[name] ??
    languages.get("en")?.[name];
  if (found === undefined) return undefined;
  const form = typeof found === "string" ? found : pluralForm(lang, found, Number(values.count));
  return form?.replace(/\{(\w+)\}/g, (whole, key) => String(values[key] ?? whole));
}

/**
 * @param {string} lang
 * @param {Exclude<Text, string>} forms
 * @param {number} count
 */
const pluralForm = (lang, forms, count) =>
  forms[new Intl.PluralRules(lang).select(count)] ?? forms.other;

/** @param {string} lang */
const baseOf = (lang) => lang.split("-")[0] ?? lang;
