/** The meter's knowledge of its account, as answers and events come in any order. */

import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

import { Account } from "../../services/usageledger/web/usage-meter-account.js";
/** @import { StreamEvent } from "../../services/usageledger/web/usage-meter-stream.js" */

import { Refusal } from "../../services/usageledger/web/usage-meter-stream.js";
import { charge, meter } from "./answers.js";

const REFETCHED_WITHIN_MS = 3_000;

afterEach(() => mock.timers.reset());

/**
 * An account whose requests are answered from `answers`, by path without its query. `send` hands it
 * an event of the stream. A missing answer is a failure of the network.
 * @param {Record<string, unknown>} answers
 * @param {{ hasHistory?: boolean }} [options]
 */
function world(answers, { hasHistory = true } = {}) {
  const run = new AbortController();
  /** @type {string[]} */
  const asked = [];
  /** @type {((event: StreamEvent | null) => void)[]} */
  const listeners = [];
  const account = new Account(
    {
      signal: run.signal,
      json: async (path) => {
        asked.push(path);
        const answer = answers[path.split("?")[0] ?? ""];
        if (answer === undefined) throw new TypeError("failed to fetch");
        if (answer instanceof Error) throw answer;
        return /** @type {any} */ (answer);
      },
      follow: async ({ onEvent }) => {
        listeners.push(onEvent);
      },
    },
    { hasHistory, onChange: () => undefined, onStatus: () => undefined },
  );
  account.start();
  return {
    account,
    answers,
    asked,
    stop: () => run.abort(),
    /** @param {Partial<Gateway.Meter>} figures */
    send: (figures) => {
      const data = JSON.stringify(meter(figures));
      for (const listen of listeners) listen({ type: "meter", data, id: undefined });
    },
    settled: () => new Promise((resolve) => setImmediate(resolve)),
  };
}

/** @param {...string} entries */
const charges = (...entries) => ({
  items: entries.map((entry) => charge({ entry })),
  next_cursor: "further",
  history_as_of: null,
});
const NO_PERIODS = { items: [], next_cursor: null, history_as_of: null };

test("the meter, its charges and its periods are fetched at the start", async () => {
  const { account, settled, stop } = world({
    "/meter": meter(),
    "/charges": charges("2", "1"),
    "/periods": NO_PERIODS,
  });
  assert.equal(account.state, "loading");
  await settled();
  assert.equal(account.state, "fresh");
  assert.deepEqual(
    account.charges?.map(({ entry }) => entry),
    ["2", "1"],
  );
  stop();
});

test("a compact meter asks for no history", async () => {
  const { account, asked, settled, stop } = world({ "/meter": meter() }, { hasHistory: false });
  await settled();
  assert.deepEqual(asked, ["/meter"]);
  assert.equal(account.isHistoryAway, false);
  stop();
});

test("figures show although the history cannot be read", async () => {
  const { account, settled, stop } = world({ "/meter": meter(), "/periods": NO_PERIODS });
  await settled();
  assert.equal(account.state, "fresh");
  assert.equal(account.isHistoryAway, true);
  assert.equal(account.charges, null);
  stop();
});

test("a final refusal is the state, and another failure is tried again", async () => {
  const refused = world({ "/meter": new Refusal(404, "no such account") });
  await refused.settled();
  assert.equal(refused.account.state, "refused");
  refused.stop();
  const away = world({ "/meter": new Refusal(503, "in a moment") });
  await away.settled();
  assert.equal(away.account.state, "loading");
  assert.equal(away.account.problem?.message, "in a moment");
  away.stop();
});

test("an event moves the figures and keeps the names of the features", async () => {
  const { account, send, settled, stop } = world({ "/meter": meter() }, { hasHistory: false });
  await settled();
  send({ at: "2026-11-25T10:00:01Z", used: "301", by_feature: { genai_video: "301" } });
  assert.equal(account.meter?.used, "301");
  assert.deepEqual(account.meter?.features[0]?.credits, "301");
  assert.equal(account.meter?.features[0]?.name, "GenAI Video");
  assert.equal(account.status, "live");
  stop();
});

test("an event that is older than what is shown changes nothing", async () => {
  const { account, send, settled, stop } = world({ "/meter": meter() }, { hasHistory: false });
  await settled();
  send({ at: "2026-11-25T09:59:59Z", used: "299" });
  assert.equal(account.meter?.used, "300");
  stop();
});

test("an answer that the stream has overtaken brings its history, not its figures", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { account, answers, send, settled, stop } = world(
    { "/meter": meter() },
    { hasHistory: false },
  );
  await settled();
  const pace = { days: "22", credits_per_day: "14", used_up_at: null, at_period_end: "90" };
  answers["/meter"] = meter({ at: "2026-11-25T10:00:05Z", used: "305", pace });
  send({ at: "2026-11-25T10:00:09Z", used: "309" });
  mock.timers.tick(REFETCHED_WITHIN_MS);
  await settled();
  assert.equal(account.meter?.used, "309");
  assert.deepEqual(account.meter?.pace, pace);
  stop();
});

test("many events in a row fetch the history once", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { asked, send, settled, stop } = world({ "/meter": meter() }, { hasHistory: false });
  await settled();
  for (const second of [1, 2, 3]) send({ at: `2026-11-25T10:00:0${second}Z`, used: `30${second}` });
  mock.timers.tick(REFETCHED_WITHIN_MS);
  await settled();
  assert.deepEqual(asked, ["/meter", "/meter"]);
  stop();
});

test("newer charges are added in front, and a gap begins the list anew", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const { account, answers, send, settled, stop } = world({
    "/meter": meter(),
    "/charges": charges("2", "1"),
    "/periods": NO_PERIODS,
  });
  const entries = () => account.charges?.map(({ entry }) => entry);
  await settled();
  answers["/charges"] = charges("4", "3", "2");
  send({ at: "2026-11-25T10:00:01Z", used: "301" });
  mock.timers.tick(REFETCHED_WITHIN_MS);
  await settled();
  assert.deepEqual(entries(), ["4", "3", "2", "1"]);
  answers["/charges"] = charges("9", "8");
  send({ at: "2026-11-25T10:00:02Z", used: "302" });
  mock.timers.tick(REFETCHED_WITHIN_MS);
  await settled();
  assert.deepEqual(entries(), ["9", "8"]);
  stop();
});

test("the state follows what is blocked and which threshold is crossed", () => {
  const blocked = { since: null, upgrade: null, resets_at: null, suspension: null };
  for (const [changes, expected] of /** @type {[Partial<Gateway.Meter>, string][]} */ ([
    [{ share_used: "0.7999" }, "fresh"],
    [{ share_used: "0.8000" }, "near"],
    [{ blocked: { ...blocked, reason: "usage" } }, "blocked"],
    [{ blocked: { ...blocked, reason: "suspended" } }, "suspended"],
    [{ blocked: { ...blocked, reason: "usage", suspension: "payment_failed" } }, "suspended"],
  ])) {
    const { account, stop } = world({});
    account.meter = meter(changes);
    account.problem = null;
    assert.equal(account.state, expected);
    stop();
  }
});

test("more charges continue the list", async () => {
  const { account, answers, asked, settled, stop } = world({
    "/meter": meter(),
    "/charges": charges("4", "3"),
    "/periods": NO_PERIODS,
  });
  await settled();
  answers["/charges"] = { ...charges("2", "1"), next_cursor: null };
  await account.fetchMoreCharges();
  assert.deepEqual(
    account.charges?.map(({ entry }) => entry),
    ["4", "3", "2", "1"],
  );
  assert.equal(account.chargesCursor, null);
  assert.equal(asked.at(-1), "/charges?limit=8&cursor=further");
  stop();
});

test("a page that cannot be read changes the status alone", async () => {
  const { account, answers, settled, stop } = world({
    "/meter": meter(),
    "/charges": charges("4"),
    "/periods": NO_PERIODS,
  });
  await settled();
  delete answers["/charges"];
  await account.fetchMoreCharges();
  assert.equal(account.charges?.length, 1);
  assert.equal(account.status, "lost");
  stop();
});
