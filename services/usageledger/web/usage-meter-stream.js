/** How <usage-meter> asks the gateway: tokens, requests, and the stream that never stays broken. */

const SILENCE_MAX_MS = 45_000; // The gateway sends something every 15 s.
const BACK_OFF_MS = [500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000];
const LINE_LENGTH_MAX = 1_000_000;
const TOKEN_MARGIN_MS = 5_000;

/** The gateway has answered, and it refused. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} detail
   */
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/**
 * Whether the same request would be refused again.
 * @param {unknown} error
 * @returns {error is Refusal}
 */
export const isFinal = (error) =>
  error instanceof Refusal && error.status < 500 && error.status !== 429;

/**
 * One event of a stream. `data` is "" for an event that has an id alone.
 * @typedef {{ type: string, data: string, id: string | undefined }} StreamEvent
 */

/**
 * The events of a stream, and null for each piece of the stream that ended none.
 * Throws when the stream is silent for too long, or a line never ends.
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<StreamEvent | null>}
 */
export async function* eventsOf(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  try {
    for (;;) {
      const { value, done } = await readUnlessSilent(reader);
      if (done || signal.aborted) return;
      yield* parser.parse(value);
      yield null;
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** Makes events of a stream's pieces (the format is the HTML standard's "server-sent events"). */
class EventParser {
  #rest = "";
  #type = "message";
  /** @type {string[]} */
  #data = [];
  /** @type {string | undefined} */
  #id = undefined;

  /**
   * The events that this piece completes.
   * @param {string} piece
   * @returns {Generator<StreamEvent>}
   */
  *parse(piece) {
    // A carriage return at the end may be the first half of a line's end.
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? "";
    if (this.#rest.length > LINE_LENGTH_MAX) {
      throw new Error("the stream has a line without an end");
    }
    for (const line of lines) {
      if (line) this.#read(line);
      else yield* this.#complete();
    }
  }

  /** @param {string} line */
  #read(line) {
    const [, field, content = ""] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (field === "event") this.#type = content;
    else if (field === "data") this.#data.push(content);
    else if (field === "id") this.#id = content;
  }

  // An id alone is an event too: it says where to resume if the stream breaks before the next one.
  *#complete() {
    const event = { type: this.#type, data: this.#data.join("\n"), id: this.#id };
    const isEvent = this.#data.length > 0 || this.#id;
    [this.#type, this.#data, this.#id] = ["message", [], undefined];
    if (isEvent) yield event;
  }
}

/** @param {ReadableStreamDefaultReader<string>} reader */
async function readUnlessSilent(reader) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("the stream is silent")), SILENCE_MAX_MS);
  });
  const read = /** @type {Promise<ReadableStreamReadResult<string>>} */ (
    Promise.race([reader.read(), silence])
  );
  return read.finally(() => clearTimeout(timer));
}

/** The account's token, and whoever provides the next one. */
export class TokenSource {
  /** @type {string | null} */
  token = null;
  /** @type {((account: string) => string | Promise<string>) | null} */
  provider = null;
  /** @type {Promise<string> | null} */
  #pending = null;

  /** Whether there is a token, or a way to get one. */
  get isSet() {
    return Boolean(this.token || this.provider);
  }

  /**
   * The token, or the next one where it has ended or was refused. Requests that need the next one
   * at the same time wait for the same answer.
   * @param {string} account
   * @param {boolean} isRefused
   */
  async current(account, isRefused) {
    const hasEnded = !this.token || tokenEndMs(this.token) - TOKEN_MARGIN_MS < Date.now();
    if (this.provider && (hasEnded || isRefused)) {
      this.#pending ??= Promise.resolve(this.provider(account)).finally(() => {
        this.#pending = null;
      });
      this.token = await this.#pending;
    }
    return this.token;
  }
}

/**
 * When a token ends, in milliseconds since 1970, by its own claim. Never, where it has none.
 * @param {string} token
 */
export function tokenEndMs(token) {
  try {
    const claims = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(atob(claims)).exp * 1_000 || Infinity;
  } catch {
    return Infinity;
  }
}

/** Requests about one account. The token travels in a header, never in a URL. */
export class Connection {
  #url;
  #account;
  #tokens;
  #signal;

  /**
   * @param {string} origin The gateway's.
   * @param {string} account
   * @param {TokenSource} tokens
   * @param {AbortSignal} signal Ends every request and the stream.
   */
  constructor(origin, account, tokens, signal) {
    this.#url = `${origin}/v1/accounts/${encodeURIComponent(account)}`;
    this.#account = account;
    this.#tokens = tokens;
    this.#signal = signal;
  }

  get signal() {
    return this.#signal;
  }

  /**
   * The JSON at a path below the account's.
   * @template [Answer=unknown]
   * @param {string} path
   * @returns {Promise<Answer>}
   * @throws {Refusal}
   */
  async json(path) {
    return (await this.#request(path)).json();
  }

  /**
   * Follow the account's stream until the signal ends it: after each loss comes another attempt.
   * Stops for good only where the token is refused.
   * @param {object} listener
   * @param {() => void} listener.onReturn The stream is open again after a loss.
   * @param {(event: StreamEvent | null) => void} listener.onEvent Null: a sign of life.
   * @param {(error: unknown) => void} listener.onLoss
   */
  async follow({ onReturn, onEvent, onLoss }) {
    const signal = this.#signal;
    let [failures, isLive, lastEventId] = [0, false, ""];
    while (!signal.aborted) {
      try {
        const body = await this.#openStream(lastEventId);
        if (failures > 0) onReturn();
        for await (const event of eventsOf(body, signal)) {
          failures = 0;
          isLive = true;
          lastEventId = event?.id || lastEventId;
          onEvent(event);
        }
        // The stream ended in good order: the token or the gateway's turn was over.
        failures = isLive ? 0 : failures + 1;
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        isLive = false;
        onLoss(error);
        if (isUnauthorized(error)) return;
      }
      await pause(backOffMs(failures) * (0.75 + Math.random() / 2), signal);
    }
  }

  /** @param {string} lastEventId */
  async #openStream(lastEventId) {
    /** @type {Record<string, string>} */
    const headers = { Accept: "text/event-stream" };
    if (lastEventId) headers["Last-Event-ID"] = lastEventId;
    const response = await this.#request("/stream", headers);
    if (!response.body) throw new Error("the stream has no body");
    return response.body;
  }

  /**
   * @param {string} path
   * @param {Record<string, string>} [headers]
   */
  async #request(path, headers = {}) {
    for (let attempt = 0; ; attempt += 1) {
      const token = await this.#tokens.current(this.#account, attempt > 0);
      this.#signal.throwIfAborted();
      const response = await fetch(this.#url + path, {
        headers: { ...headers, Authorization: `Bearer ${token}` },
        signal: this.#signal,
        credentials: "omit",
        cache: "no-store",
      });
      if (response.ok) return response;
      if (response.status === 401 && attempt === 0 && this.#tokens.provider) continue;
      const problem = await response.json().catch(() => ({}));
      throw new Refusal(response.status, problem.detail ?? `${response.status}`);
    }
  }
}

/**
 * Whether another token would be needed.
 * @param {unknown} error
 */
export const isUnauthorized = (error) =>
  error instanceof Refusal && [401, 403].includes(error.status);

/**
 * How long to wait after this many failures in a row.
 * @param {number} failures
 */
export const backOffMs = (failures) => BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)] ?? 0;

/**
 * Wait. Ends early when the browser is back on the network, or when the signal ends.
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      globalThis.removeEventListener?.("online", wake);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, ms);
    globalThis.addEventListener?.("online", wake);
    signal.addEventListener("abort", wake);
  });
}
