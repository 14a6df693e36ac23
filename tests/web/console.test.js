/** The console: how catalogs become lines that can be compared, and how requests are written. */

import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

import {
  ask,
  Problem,
  sentenceOf,
  withQuery,
} from "../../services/usageledger/web/pages/asking.js";
import {
  changeOf,
  linesOf,
  rateText,
} from "../../services/usageledger/web/pages/console-catalogs.js";

afterEach(() => mock.restoreAll());

test("a path has those parameters that have a value", () => {
  assert.equal(withQuery("/v1/keys", { cursor: null, search: "" }), "/v1/keys");
  assert.equal(withQuery("/v1/keys", { limit: 0, search: "a&b" }), "/v1/keys?limit=0&search=a%26b");
});

test("a detail becomes a sentence", () => {
  assert.equal(sentenceOf("the key has ended"), "The key has ended.");
  assert.equal(sentenceOf("is it running?"), "Is it running?");
});

test("a refusal becomes an error with the gateway's sentence", async () => {
  const refused = Response.json({ detail: "that is no key", code: "wrong_key" }, { status: 401 });
  mock.method(globalThis, "fetch", async () => refused);
  await assert.rejects(ask("POST", "/session", {}), (problem) => {
    assert.ok(problem instanceof Problem);
    assert.deepEqual(
      [problem.status, problem.code, problem.message],
      [401, "wrong_key", "That is no key."],
    );
    return true;
  });
});

test("a gateway that does not answer is an error that says so", async () => {
  mock.method(globalThis, "fetch", async () => {
    throw new TypeError("failed to fetch");
  });
  await assert.rejects(ask("GET", "/v1/keys"), /The gateway does not answer/);
});

test("an answer without a body is null", async () => {
  mock.method(globalThis, "fetch", async () => new Response(null, { status: 204 }));
  assert.equal(await ask("DELETE", "/session"), null);
});

test("a rate is written as it is said", () => {
  const rounding = /** @type {const} */ ("up");
  for (const [rate, expected] of /** @type {[Gateway.RateShown, string][]} */ ([
    [{ credits: "1", unit: "edit", per: "1", rounding }, "1 credit an edit"],
    [{ credits: "32", unit: "generation", per: "1", rounding }, "32 credits a generation"],
    [{ credits: "2", unit: "second", per: "10", rounding }, "2 credits for 10 seconds"],
    [
      { credits: "0.5", unit: "message", per: "1", rounding: "exact" },
      "0.5 credits a message, exact",
    ],
  ])) {
    assert.equal(rateText(rate), expected);
  }
});

test("a line is added, removed, changed or the same", () => {
  assert.deepEqual(
    [changeOf("a", "a"), changeOf(undefined, "a"), changeOf("a", undefined), changeOf("a", "b")],
    [null, "added", "removed", "changed"],
  );
});

test("a catalog has a line for each plan, rate and rule", () => {
  const rate = { credits: "1", unit: "edit", per: "1", rounding: /** @type {const} */ ("up") };
  const lines = linesOf({
    version: "2026-11",
    effective_from: "2026-11-01T00:00:00Z",
    is_in_force: true,
    adopted_by: 4,
    plans: [
      {
        id: "max",
        name: "Max",
        price_cents: 2499,
        allotment: "500",
        renews: true,
        thresholds: ["0.8", "0.95"],
      },
    ],
    features: [
      { id: "ai_edit", name: "AI Edit", section: "", rate, models: [] },
      {
        id: "video",
        name: "Video",
        section: "",
        rate: null,
        models: [{ id: "v", name: "V", rate }],
      },
    ],
    thresholds: [],
    unknown_accounts: "refuse",
  });
  assert.deepEqual(
    [...lines],
    [
      ["Plan Max", "500 credits a month, $24.99, thresholds 80 %, 95 %"],
      ["Thresholds", "none"],
      ["Unknown accounts", "refused"],
      ["AI Edit", "1 credit an edit"],
      ["Video · V", "1 credit an edit"],
    ],
  );
});
