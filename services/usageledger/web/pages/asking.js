/** Requests to the gateway as whoever is signed in. A refusal becomes an error. */

/** The gateway's refusal: a sentence that says what to do (RFC 9457). */
export class Problem extends Error {
  /**
   * @param {number} status 0 where no gateway has answered.
   * @param {{ detail?: string, title?: string, code?: string }} details
   */
  constructor(status, details) {
    super(sentenceOf(details.detail ?? details.title ?? `The gateway answered with ${status}.`));
    this.status = status;
    this.code = details.code ?? "";
  }
}

/**
 * Send one request with the session's cookie. Returns the answer's JSON, or null where it has none.
 * @template [Answer=unknown]
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<Answer>}
 * @throws {Problem} also where no gateway answers.
 */
export async function ask(method, path, body) {
  const response = await send(method, path, body);
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? /** @type {Answer} */ (null) : response.json();
}

/**
 * @param {string} method
 * @param {string} path
 * @param {unknown} body
 */
async function send(method, path, body) {
  /** @type {RequestInit} */
  const init = { method, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    init.headers = { "Content-Type": "application/json" };
    init.body = JSON.stringify(body);
  }
  try {
    return await fetch(path, init);
  } catch {
    const detail = "the gateway does not answer: check that it is running";
    throw new Problem(0, { code: "unreachable", detail });
  }
}

/**
 * A detail as a sentence: details begin in lower case and end without a stop.
 * @param {string} detail
 */
export function sentenceOf(detail) {
  const text = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/**
 * A path with its parameters. Those without a value are left out.
 * @param {string} path
 * @param {Record<string, string | number | null | undefined>} parameters
 */
export function withQuery(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== null && value !== undefined) query.append(name, String(value));
  }
  return query.size ? `${path}?${query}` : path;
}
