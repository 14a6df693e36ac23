/** The stream, its events, and the tokens of its requests. */

import assert from "node:assert/strict";
import { afterEach, mock, test } from "node:test";

import {
  backOffMs,
  Connection,
  eventsOf,
  isFinal,
  Refusal,
  tokenEndMs,
  TokenSource,
} from "../../services/usageledger/web/usage-meter-stream.js";

const LONGEST_WAIT_MS = 37_500;
const neverAborted = new AbortController().signal;

afterEach(() => {
  mock.restoreAll();
  mock.timers.reset();
});

/** A stream of these pieces. @param {...string} pieces */
function streamOf(...pieces) {
  const encoder = new TextEncoder();
  return new ReadableStream({
    start(controller) {
      for (const piece of pieces) controller.enqueue(encoder.encode(piece));
      controller.close();
    },
  });
}

/** The events of these pieces, without the signs of life. @param {...string} pieces */
async function read(...pieces) {
  const events = [];
  for await (const event of eventsOf(streamOf(...pieces), neverAborted)) {
    if (event) events.push(event);
  }
  return events;
}

/** A token that ends at a time. @param {number} endMs */
const tokenUntil = (endMs) => `x.${btoa(JSON.stringify({ exp: endMs / 1_000 }))}.y`;

test("events come out whole, however the stream is cut", async () => {
  const text = 'event: meter\ndata: {"a":\ndata: 1}\nid: 7\n\n: ping\n\ndata: late\n\n';
  const whole = await read(text);
  assert.deepEqual(whole, [
    { type: "meter", data: '{"a":\n1}', id: "7" },
    { type: "message", data: "late", id: undefined },
  ]);
  for (let cut = 1; cut < text.length; cut += 1) {
    assert.deepEqual(await read(text.slice(0, cut), text.slice(cut)), whole, `cut at ${cut}`);
  }
});

test("lines may end in CR LF, also where it is cut in two", async () => {
  const expected = [{ type: "message", data: "1", id: undefined }];
  assert.deepEqual(await read("data: 1\r\n\r\n"), expected);
  assert.deepEqual(await read("data: 1\r", "\n\r", "\n"), expected);
});

test("an id alone is an event: the stream resumes behind it", async () => {
  assert.deepEqual(await read("id: 3-9\n\n"), [{ type: "message", data: "", id: "3-9" }]);
});

test("an event that the stream's end cuts off does not count", async () => {
  assert.deepEqual(await read("data: 1\n\ndata: 2\n"), [
    { type: "message", data: "1", id: undefined },
  ]);
});

test("each piece is a sign of life, also one without an event", async () => {
  const signs = [];
  for await (const event of eventsOf(streamOf(": ping\n\n"), neverAborted)) signs.push(event);
  assert.deepEqual(signs, [null]);
});

test("a line that never ends is an error, not a memory leak", async () => {
  await assert.rejects(read("x".repeat(1_000_001)), /a line without an end/);
});

test("a stream that is silent for 45 seconds is lost", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const events = eventsOf(new ReadableStream(), neverAborted);
  const next = events.next();
  mock.timers.tick(45_000);
  await assert.rejects(next, /silent/);
});

test("a token says itself when it ends, or never", () => {
  assert.equal(tokenEndMs(tokenUntil(1_700_000_000_000)), 1_700_000_000_000);
  assert.equal(tokenEndMs("ulk_0a1b2c3d_secret"), Infinity);
  assert.equal(tokenEndMs("x.e30.y"), Infinity);
});

test("a token that is about to end is replaced before it is used", async () => {
  const tokens = new TokenSource();
  tokens.token = tokenUntil(Date.now() + 4_000);
  tokens.provider = (account) => `next for ${account}`;
  assert.equal(await tokens.current("a", false), "next for a");
});

test("a token that lasts is used until it is refused", async () => {
  const tokens = new TokenSource();
  const lasting = tokenUntil(Date.now() + 60_000);
  tokens.token = lasting;
  tokens.provider = () => "next";
  assert.equal(await tokens.current("a", false), lasting);
  assert.equal(await tokens.current("a", true), "next");
});

test("requests that need a token at the same time ask for it once", async () => {
  const tokens = new TokenSource();
  const provider = mock.fn(async () => "the one");
  tokens.provider = provider;
  const both = await Promise.all([tokens.current("a", false), tokens.current("a", false)]);
  assert.deepEqual(both, ["the one", "the one"]);
  assert.equal(provider.mock.callCount(), 1);
});

/** @param {...(Response | Error)} answers @returns {{ url: string, headers: Headers }[]} */
function answerWith(...answers) {
  /** @type {{ url: string, headers: Headers }[]} */
  const requests = [];
  mock.method(
    globalThis,
    "fetch",
    async (/** @type {string} */ url, /** @type {RequestInit} */ init) => {
      requests.push({ url, headers: new Headers(init.headers) });
      const answer = answers.shift() ?? new Error("no more answers");
      if (answer instanceof Error) throw answer;
      return answer;
    },
  );
  return requests;
}

/** @param {AbortSignal} [signal] */
function connection(signal = neverAborted) {
  const tokens = new TokenSource();
  tokens.provider = mock.fn(async () => "a token");
  return new Connection("https://gateway.example", "team/7", tokens, signal);
}

const refusal = (/** @type {number} */ status) =>
  Response.json({ detail: `refused with ${status}` }, { status });

test("the token is in a header and never in the address", async () => {
  const requests = answerWith(Response.json({ used: "1" }));
  assert.deepEqual(await connection().json("/meter"), { used: "1" });
  assert.equal(requests[0]?.url, "https://gateway.example/v1/accounts/team%2F7/meter");
  assert.equal(requests[0]?.headers.get("authorization"), "Bearer a token");
});

test("a refused token is replaced once", async () => {
  const requests = answerWith(refusal(401), Response.json({}));
  await connection().json("/meter");
  assert.equal(requests.length, 2);
  answerWith(refusal(401), refusal(401));
  await assert.rejects(connection().json("/meter"), new Refusal(401, "refused with 401"));
});

test("only a refusal that would come again is final", () => {
  for (const [status, expected] of /** @type {[number, boolean][]} */ ([
    [400, true],
    [403, true],
    [404, true],
    [429, false],
    [500, false],
    [503, false],
  ])) {
    assert.equal(isFinal(new Refusal(status, "")), expected, String(status));
  }
  assert.equal(isFinal(new TypeError("failed to fetch")), false);
});

test("waits grow from half a second to half a minute", () => {
  assert.deepEqual(
    [0, 1, 2, 6, 7, 100].map(backOffMs),
    [500, 1_000, 2_000, 30_000, 30_000, 30_000],
  );
});

/**
 * Follow a stream through these answers, and stop after the last. Waits take no time.
 * @param {...(Response | Error)} answers
 */
async function follow(...answers) {
  mock.timers.enable({ apis: ["setTimeout"] });
  const run = new AbortController();
  /** @type {string[]} */
  const calls = [];
  const requests = answerWith(...answers);
  const following = connection(run.signal).follow({
    onReturn: () => calls.push("return"),
    onEvent: (event) => calls.push(event ? `event ${event.id ?? event.type}` : "life"),
    onLoss: (error) => {
      const { message } = /** @type {Error} */ (error);
      calls.push(`loss ${message}`);
      if (message === "no more answers") run.abort();
    },
  });
  let isOver = false;
  following.finally(() => (isOver = true));
  while (!isOver) {
    for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    mock.timers.tick(LONGEST_WAIT_MS);
  }
  return { calls, requests };
}

test("a stream that is refused for its token is not tried again", async () => {
  const { calls, requests } = await follow(refusal(403));
  assert.deepEqual(calls, ["loss refused with 403"]);
  assert.equal(requests.length, 1);
});

test("after a loss the stream comes back and resumes behind the last event", async () => {
  const { calls, requests } = await follow(
    new Response(streamOf("id: 3-9\ndata: 1\n\n")),
    new TypeError("failed to fetch"),
    new Response(streamOf("data: 2\n\n")),
  );
  assert.deepEqual(calls, [
    "event 3-9",
    "life",
    "loss failed to fetch",
    "return",
    "event message",
    "life",
    "loss no more answers",
  ]);
  assert.deepEqual(
    requests.map(({ headers }) => headers.get("last-event-id")),
    [null, "3-9", "3-9", "3-9"],
  );
});
