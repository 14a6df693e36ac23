/** The words of the meter: every language has every text, with the same values to fill in. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  addTexts,
  areTextsHere,
  fetchTexts,
  findText,
} from "../../services/usageledger/web/usage-meter-texts.js";
import german from "../../services/usageledger/web/usage-meter.de.js";
import english from "../../services/usageledger/web/usage-meter.en.js";

/** @typedef {import("../../services/usageledger/web/usage-meter-texts.js").Text} Text */

/** @param {Text} text */
const formsOf = (text) => (typeof text === "string" ? [text] : Object.values(text));

/** @param {Text} text */
const valuesOf = (text) =>
  formsOf(text).map((form) => [...form.matchAll(/\{\w+\}/g)].flat().sort());

const isExplanation = (/** @type {string} */ name) => name.startsWith("explain_");

test("every language has every text", () => {
  assert.ok(Object.keys(english).length > 80);
  const names = Object.keys(german).filter((name) => !isExplanation(name));
  assert.deepEqual(names.sort(), Object.keys(english).sort());
});

test("a text has the same values in every language", () => {
  /** @type {Record<string, Text>} */
  const translated = german;
  for (const [name, text] of Object.entries(english)) {
    assert.deepEqual(valuesOf(translated[name] ?? ""), valuesOf(text), name);
  }
});

test("a language that explains charges explains every kind of them", () => {
  // The gateway explains in English itself.
  const names = Object.keys(german).filter(isExplanation);
  const kinds = Object.keys(english)
    .filter((name) => name.startsWith("kind_"))
    .map((name) => name.replace("kind_", "explain_"));
  assert.deepEqual(names.sort(), [...kinds, "explain_usage", "explain_usage_per"].sort());
});

test("a shipped language is fetched once, and until then its meters wait", async () => {
  assert.equal(areTextsHere("de-AT"), false);
  await fetchTexts("de-AT");
  assert.equal(areTextsHere("de"), true);
  assert.equal(findText("de-AT", {}, "used"), "Verbraucht");
});

test("a language that nobody ships is shown in English at once", () => {
  assert.equal(areTextsHere("pt"), true);
  assert.equal(findText("pt", {}, "used"), "Used");
});

test("a page can add a language, and replace single words", () => {
  addTexts("fr", { used: "Consommé" });
  addTexts("fr", { held: "Réservé" });
  assert.equal(findText("fr-CA", {}, "used"), "Consommé");
  assert.equal(findText("fr", {}, "left"), "Available");
});

test("a language takes its own plural forms", () => {
  addTexts("pl", { credits: { one: "{n} kredyt", few: "{n} kredyty", other: "{n} kredytów" } });
  const text = (/** @type {string} */ n) => findText("pl", {}, "credits", { n, count: n });
  assert.deepEqual(["1", "3", "5"].map(text), ["1 kredyt", "3 kredyty", "5 kredytów"]);
});

test("a value that is missing leaves its place visible", () => {
  assert.equal(findText("en", {}, "as_of"), "As of {time}");
});
