/** Keys: list them, make one, rotate one with an overlap, revoke one. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { actionButton, isConfirmed, onSubmit, showSecret } from "./console-actions.js";
import { appendList, badge } from "./console-lists.js";
import { time } from "./console-words.js";

const SCOPES = {
  report: "report usage",
  check: "check",
  hold: "hold",
  read: "read",
  admin: "admin: all of it",
};
const OVERLAP_S = 86_400;
const SHOWN_ONCE = "It is shown only now: store it with your service’s secrets.";

/** @param {string} id */
const pathOf = (id) => `/v1/keys/${encodeURIComponent(id)}`;

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showKeys(container, { signal }) {
  container.append(newKeyForm(() => table.reload()));
  /** @param {Gateway.KeyShown} key */
  const actions = (key) =>
    element(
      "div.actions",
      {},
      actionButton("Rotate", () => rotate(key).then(table.reload)),
      actionButton("Revoke", () => revoke(key).then(table.reload), "button.danger"),
    );
  /** @type {import("./console-lists.js").Column<Gateway.KeyShown>[]} */
  const columns = [
    {
      name: "Name",
      value: ({ id, name }) => [
        name,
        element("p.muted.small", {}, element("code", {}, `ulk_${id}_…`)),
      ],
    },
    { name: "Scopes", value: ({ scopes }) => scopes.join(", ") },
    { name: "Bound to", value: boundsOf },
    { name: "Made", value: ({ created_at: at }) => time(at) },
    { name: "State", value: stateOf },
    { name: "Do", value: (key) => (key.revoked_at ? "–" : actions(key)) },
  ];
  const table = appendList(container, {
    path: "/v1/keys",
    label: "Keys",
    empty: "There is no key.",
    signal,
    columns,
  });
}

/** @param {() => Promise<void>} onMade */
function newKeyForm(onMade) {
  const name = element("input", {
    id: "name",
    name: "name",
    required: true,
    maxlength: 100,
    placeholder: "render service",
    autocomplete: "off",
  });
  const scopes = element(
    "fieldset",
    {},
    element("legend", {}, "What it may do"),
    Object.entries(SCOPES).map(([scope, text]) =>
      element(
        "label.check",
        {},
        element("input", { type: "checkbox", name: "scopes", value: scope }),
        text,
      ),
    ),
  );
  const form = element(
    "form.fields",
    {},
    element("label", { for: "name" }, "A key for"),
    name,
    scopes,
    element("button.primary", { type: "submit" }, "Make a key"),
  );
  onSubmit(form, async () => {
    const chosen = new FormData(form).getAll("scopes");
    if (!chosen.length) throw new Error("Choose what the key may do.");
    /** @type {Gateway.KeyMade} */
    const made = await ask("POST", "/v1/keys", { name: name.value, scopes: chosen });
    form.reset();
    await showSecret("The new key", made.key, SHOWN_ONCE);
    await onMade();
  });
  return form;
}

/** @param {Gateway.KeyShown} key */
async function rotate({ id }) {
  /** @type {Gateway.KeyMade} */
  const { key } = await ask("POST", `${pathOf(id)}/rotate`, { overlap_s: OVERLAP_S });
  const text = `The old secret works for one more day. ${SHOWN_ONCE}`;
  await showSecret("The key’s new secret", key, text);
}

/** @param {Gateway.KeyShown} key */
async function revoke({ id, name }) {
  const text = "It and every account token made with it end at once.";
  if (await isConfirmed(`Revoke the key of “${name}”?`, text, "Revoke")) {
    await ask("POST", `${pathOf(id)}/revoke`);
  }
}

/** @param {Gateway.KeyShown} key */
function boundsOf({ sources, accounts, events_per_second: quota }) {
  const bounds = [...sources, ...accounts, ...(quota === null ? [] : [`${quota} events/s`])];
  return bounds.join(", ") || "–";
}

/** @param {Gateway.KeyShown} key */
function stateOf({ revoked_at: revokedAt, secrets }) {
  if (revokedAt) {
    return [badge("revoked", "danger"), element("p.muted.small", {}, time(revokedAt))];
  }
  const ending = secrets.find((secret) => secret.expires_at !== null);
  if (!ending) return badge("works", "good");
  const until = element("p.muted.small", {}, "old secret until ", time(ending.expires_at));
  return [badge("rotating", "warning"), until];
}
