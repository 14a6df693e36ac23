/** Numbers, credits, dates and words of the meter. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  creditsOf,
  Format,
  microOf,
  shareOf,
} from "../../services/usageledger/web/usage-meter-format.js";

const english = new Format({ lang: "en-GB" });
const german = new Format({ lang: "de", timeZone: "Europe/Berlin", currency: "EUR" });

test("credits become micro-credits digit by digit, up to the largest amount", () => {
  for (const [credits, micro] of /** @type {[string, number][]} */ ([
    ["0", 0],
    ["0.000001", 1],
    ["1.5", 1_500_000],
    ["-0.25", -250_000],
    ["-0", 0],
    // Multiplied as a binary fraction, this one would be off by one.
    ["9007199254.740991", Number.MAX_SAFE_INTEGER],
    ["-9007199254.740991", -Number.MAX_SAFE_INTEGER],
  ])) {
    assert.equal(microOf(credits), micro, credits);
  }
});

test("what is no amount of credits is refused", () => {
  for (const text of ["", "1.", ".5", "1e3", "0.0000001", "−1", "NaN", "1,000"]) {
    assert.throws(() => microOf(text), RangeError, text);
  }
});

test("micro-credits and back is the same amount", () => {
  for (const credits of ["0", "0.000001", "12.34", "-0.5", "9007199254.740991", "100"]) {
    assert.equal(creditsOf(microOf(credits)), credits);
  }
});

test("a sum of credits is exact where binary fractions are not", () => {
  assert.notEqual(0.1 + 0.2, 0.3);
  assert.equal(creditsOf(microOf("0.1") + microOf("0.2")), "0.3");
});

test("a share lies between 0 and 1", () => {
  assert.deepEqual([shareOf(1, 4), shareOf(5, 4), shareOf(-1, 4), shareOf(1, 0)], [0.25, 1, 0, 0]);
});

test("a decimal is written from its digits", () => {
  assert.equal(english.number("9007199254.740991"), "9,007,199,254.740991");
  assert.equal(german.number("1400.5"), "1.400,5");
  assert.equal(english.number("-3"), "−3");
});

test("a share below 100 % is never written as 100 %", () => {
  assert.equal(english.percent("0.9999"), "99%");
  assert.equal(english.percent("1.0000"), "100%");
});

test("a text that counts takes the plural form of its number", () => {
  assert.equal(english.counted("credits", "1"), "1 credit");
  assert.equal(english.counted("credits", "1.5"), "1.5 credits");
  assert.equal(english.quantity("2", "generation"), "2 generations");
});

test("a unit without a word is written as the catalog names it", () => {
  assert.equal(english.quantity("3", "pixel"), "3 pixel");
  assert.equal(english.quantity("3", null), "3");
});

test("words of one meter come before those of its language", () => {
  const own = new Format({ lang: "en", texts: { title: "Our credits" } });
  assert.equal(own.text("title"), "Our credits");
  assert.equal(own.text("used"), "Used");
});

test("a text that no language has is undefined, and its name where there must be one", () => {
  assert.equal(english.findText("kind_unheard_of"), undefined);
  assert.equal(english.text("kind_unheard_of"), "kind_unheard_of");
});

test("a price without cents has no decimal places", () => {
  assert.equal(new Format({ lang: "en-US" }).price(7000), "$70");
  assert.equal(new Format({ lang: "en-US" }).price(6999), "$69.99");
});

test("dates are those of the account's time zone", () => {
  const lateInLondon = "2026-11-24T23:30:00Z";
  assert.equal(english.date(lateInLondon), "24 November");
  assert.equal(german.date(lateInLondon), "25. November");
  assert.equal(german.localDate(Date.parse(lateInLondon)), "2026-11-25");
});

test("a time zone that the browser does not know is UTC", () => {
  const format = new Format({ lang: "en", timeZone: "Moon/Tycho" });
  assert.equal(format.localDate(Date.parse("2026-11-24T23:30:00Z")), "2026-11-24");
});

test("days are counted by the calendar, not by 24 hours", () => {
  const now = Date.parse("2026-11-25T23:00:00Z");
  assert.equal(english.daysUntil("2026-11-25T23:59:00Z", now), "today");
  assert.equal(english.daysUntil("2026-11-26T01:00:00Z", now), "tomorrow");
  assert.equal(english.daysUntil("2026-12-03T09:00:00Z", now), "in 8 days");
  assert.equal(english.daysUntil("2026-11-20T09:00:00Z", now), "today");
});

test("a period without an end has its first date alone", () => {
  const start = "2026-11-20T12:00:00Z";
  assert.equal(english.range({ start, end: null }), "20 Nov");
  assert.match(english.range({ start, end: "2026-12-20T12:00:00Z" }), /^20 Nov\s.\s20 Dec$/);
});
