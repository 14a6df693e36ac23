/** The meter's words: its notice, its announcements, and the reason of each charge. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Format } from "../../services/usageledger/web/usage-meter-format.js";
import { chargeReason, chargeTitle } from "../../services/usageledger/web/usage-meter-history.js";
import { announcementOf, noticeOf } from "../../services/usageledger/web/usage-meter-overview.js";
import { fetchTexts } from "../../services/usageledger/web/usage-meter-texts.js";
import { charge, meter, SCALE } from "./answers.js";

/** @typedef {import("../../services/usageledger/web/usage-meter-account.js").State} State */

const english = new Format({ lang: "en-GB" });
await fetchTexts("de");
const german = new Format({ lang: "de" });

/**
 * @param {State} state
 * @param {Partial<Gateway.Meter>} [changes]
 */
const notice = (state, changes) => noticeOf({ state, problem: null }, meter(changes), english);

test("a meter with credits left says how long they last", () => {
  assert.deepEqual(notice("fresh"), {
    title: "About 97 credits left on 3 December at this pace",
    text: "13.6 credits a day on average in this period. Credits renew on 3 December.",
    offer: null,
  });
});

test("credits left at the period's end are rounded down", () => {
  const pace = { days: "9", credits_per_day: "1", used_up_at: null, at_period_end: "0.999" };
  assert.match(notice("fresh", { pace }).title, /^About 0 credits/);
});

test("without a pace nothing is forecast", () => {
  assert.equal(notice("fresh", { pace: null }).title, "There is no pace to go by yet");
});

test("near the limit the upgrade is offered with its terms", () => {
  const { title, text, offer } = notice("near", { upgrade: SCALE, share_used: "0.8699" });
  assert.equal(title, "86% of the credits are used");
  assert.match(text, /Scale brings 1,400 credits for US\$69\.99 a month\.$/);
  assert.equal(offer, SCALE);
});

test("an offer that is not needed yet is not made", () => {
  assert.equal(notice("fresh", { upgrade: SCALE }).offer, null);
});

/** @param {Partial<Gateway.BlockedShown>} changes */
const blocked = (changes) => ({
  blocked: {
    reason: "usage",
    since: "2026-11-25T09:53:00Z",
    suspension: null,
    upgrade: SCALE,
    resets_at: null,
    ...changes,
  },
});

test("a blocked account is told since when, until when, and what would help", () => {
  const { title, text, offer } = notice("blocked", blocked({}));
  assert.equal(title, "All credits are used");
  assert.match(
    text,
    /^New generations are stopped since 25 Nov, 9:53.*renew on 3 December\. Scale/,
  );
  assert.equal(offer, SCALE);
});

test("the reason of a block has its own title where there are words for it", () => {
  const titleOf = (/** @type {string} */ reason) => notice("blocked", blocked({ reason })).title;
  assert.equal(titleOf("plan_changed"), "The plan’s credits are used");
  assert.equal(titleOf("unheard_of"), "All credits are used");
});

test("a suspended account is offered nothing to buy", () => {
  const paid = blocked({ reason: "suspended", suspension: "payment_failed" });
  assert.deepEqual(notice("suspended", paid), {
    title: "The account is suspended",
    text: "A payment has failed. Generations start again once it is made.",
    offer: null,
  });
});

test("a refusal is shown in the gateway's words", () => {
  const problem = new Error("this token is for another account");
  const shown = noticeOf({ state: "refused", problem }, meter(), english);
  assert.equal(shown.text, "this token is for another account");
});

test("a screen reader hears of changes, not of the start and not of each tick", () => {
  for (const [before, now, expected] of /** @type {[State | null, State, string | null][]} */ ([
    [null, "blocked", null],
    ["fresh", "fresh", null],
    ["fresh", "near", "57% of the credits are used."],
    ["near", "blocked", "The account is blocked: all credits are used."],
    ["blocked", "fresh", "The account is free again: 206 credits are available."],
    ["suspended", "near", "The account is free again: 206 credits are available."],
    ["near", "fresh", null],
    ["fresh", "refused", null],
  ])) {
    assert.equal(announcementOf(before, now, meter(), english), expected, `${before} → ${now}`);
  }
});

test("a charge is named after what was used, or after what happened", () => {
  assert.equal(chargeTitle(charge(), english), "GenAI Video · Veo 3");
  const nothing = { feature: null, feature_name: null, model: null, model_name: null };
  assert.equal(chargeTitle(charge({ kind: "renewal", ...nothing }), english), "Renewed");
  assert.equal(chargeTitle(charge({ kind: "void" }), english), "Given back: GenAI Video · Veo 3");
});

test("the gateway explains in English, and a language with own words explains itself", () => {
  assert.equal(chargeReason(charge(), english), "1 generation at 32 credits a generation");
  assert.equal(chargeReason(charge(), german), "1 Generierung zu je 32 Credits: 32 Credits.");
});

test("a rate for several units is explained with them", () => {
  const rate = { credits: "1", unit: "second", per: "10", rounding: /** @type {const} */ ("up") };
  const used = charge({ rate, quantity: "25", unit: "second", credits: "3" });
  assert.equal(chargeReason(used, german), "25 Sekunden, 1 Credit für je 10 Sekunden: 3 Credits.");
});

test("a charge without its rate is explained by the gateway", () => {
  const used = charge({ rate: null, explanation: "as it was" });
  assert.equal(chargeReason(used, german), "as it was");
});
