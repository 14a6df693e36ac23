/** Keys: which there are, making one, rotating one with an overlap, revoking one. */

import { ask } from "./asking.js";
import { badge, confirmed, doing, list, sending, showSecret } from "./console-lists.js";
import { time } from "./console-words.js";
import { element } from "./elements.js";

const SCOPES = { report: "report usage", check: "check", hold: "hold", read: "read", admin: "admin: all of it" };
const OVERLAP_S = 86_400;

const pathOf = (id) => `/v1/keys/${encodeURIComponent(id)}`;
const ONCE = "It is shown this once: keep it where your service’s secrets are.";

export function keys(place, { signal }) {
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
    Object.entries(SCOPES).map(([scope, what]) =>
      element("label.check", {}, element("input", { type: "checkbox", name: "scopes", value: scope }), what),
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
  sending(form, async () => {
    const chosen = new FormData(form).getAll("scopes");
    if (!chosen.length) throw new Error("Choose what the key may do.");
    const made = await ask("POST", "/v1/keys", { name: name.value, scopes: chosen });
    form.reset();
    await showSecret("The new key", made.key, ONCE);
    await table.reload();
  });
  const rotate = async ({ id }) => {
    await showSecret(
      "The key’s new secret",
      (await ask("POST", `${pathOf(id)}/rotate`, { overlap_s: OVERLAP_S })).key,
      `The old one works for a day more. ${ONCE}`,
    );
    await table.reload();
  };
  const revoke = async ({ id, name: who }) => {
    if (!(await confirmed(`Revoke the key of “${who}”?`, "It and every account token made with it end at once.", "Revoke"))) return;
    await ask("POST", `${pathOf(id)}/revoke`);
    await table.reload();
  };
  place.append(form);
  const table = list(place, {
    path: "/v1/keys",
    label: "Keys",
    empty: "There is no key.",
    signal,
    columns: [
      { name: "Name", value: (key) => [key.name, element("p.muted.small", {}, element("code", {}, `ulk_${key.id}_…`))] },
      { name: "Scopes", value: (key) => key.scopes.join(", ") },
      { name: "Made", value: (key) => time(key.created_at) },
      { name: "State", value: (key) => stateOf(key) },
      {
        name: "Do",
        value: (key) =>
          key.revoked_at
            ? "–"
            : element(
                "div.actions",
                {},
                doing("Rotate", () => rotate(key)),
                doing("Revoke", () => revoke(key), { tag: "button.danger" }),
              ),
      },
    ],
  });
}

function stateOf(key) {
  if (key.revoked_at) return [badge("revoked", "danger"), element("p.muted.small", {}, time(key.revoked_at))];
  const ending = key.secrets.find((secret) => secret.expires_at !== null);
  return ending
    ? [badge("rotating", "warning"), element("p.muted.small", {}, "old secret until ", time(ending.expires_at))]
    : badge("works", "good");
}
