/** Asking the gateway as whoever is signed in: the session's cookie goes along, and an answer that says no becomes an error. */

/** What the gateway says when it says no: a sentence that says what to do (RFC 9457). */
export class Problem extends Error {
  constructor(status, details) {
    super(sentence(details.detail ?? details.title ?? `The gateway answered with ${status}.`));
    this.status = status;
    this.code = details.code ?? "";
  }
}

/** One request; the answer's JSON, or null where there is none. Raises Problem, also where no gateway answers. */
export async function ask(method, path, body) {
  const init = { method, headers: {}, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch {
    throw new Problem(0, { code: "unreachable", detail: "the gateway does not answer: is it running?" });
  }
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response.status === 204 ? null : response.json();
}

/** Details begin in lower case and end without a stop, so that they fit behind a name; alone they are sentences. */
function sentence(detail) {
  const text = detail.charAt(0).toUpperCase() + detail.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
