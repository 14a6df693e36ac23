/** Webhooks: endpoints, what was delivered to them, and sending it again. */

import { ask } from "./asking.js";
import { badge, confirmed, doing, list, sending, showSecret } from "./console-lists.js";
import { number, time } from "./console-words.js";
import { element } from "./elements.js";

const TONES = { active: "good", delivered: "good", pending: "", failing: "warning", dead: "danger", disabled: "danger" };
const OVERLAP_S = 86_400;

const pathOf = (id) => `/v1/webhooks/${encodeURIComponent(id)}`;

export function webhooks(place, { signal }) {
  const url = element("input", {
    id: "url",
    type: "url",
    name: "url",
    required: true,
    placeholder: "https://app.example/hooks/limits",
    autocomplete: "off",
  });
  const form = element(
    "form.fields",
    {},
    element("label", { for: "url" }, "Send limit events to"),
    url,
    element("button.primary", { type: "submit" }, "Add"),
  );
  sending(form, async () => {
    const made = await ask("POST", "/v1/webhooks", { url: url.value });
    url.value = "";
    await showSecret("The endpoint’s secret", made.secret, "Receivers verify signatures with it. It is shown this once.");
    await table.reload();
  });
  const change = async (path, method, body) => {
    await ask(method, path, body);
    await table.reload();
  };
  const rotate = async ({ id }) =>
    showSecret(
      "The new secret",
      (await ask("POST", `${pathOf(id)}/rotate`, { overlap_s: OVERLAP_S })).secret,
      "For a day, both secrets sign. It is shown this once.",
    );
  const remove = async ({ id, url: to }) => {
    if (!(await confirmed("Remove this endpoint?", `Nothing more is sent to ${to}; what waits for it is dropped.`, "Remove"))) return;
    await change(pathOf(id), "DELETE");
  };
  place.append(form);
  const table = list(place, {
    path: "/v1/webhooks",
    label: "Webhook endpoints",
    empty: "There is no endpoint yet.",
    signal,
    columns: [
      {
        name: "Endpoint",
        value: (endpoint) => [
          element("a", { href: `#/webhooks/${encodeURIComponent(endpoint.id)}` }, endpoint.url),
          element(
            "p.muted.small",
            {},
            [endpoint.types.join(", "), endpoint.accounts?.join(", "), endpoint.description].filter(Boolean).join(" · "),
          ),
        ],
      },
      {
        name: "State",
        value: ({ state, disabled_because: why }) => [badge(state, TONES[state]), why && element("p.muted.small", {}, why)],
      },
      { name: "Waiting", value: ({ pending }) => number(pending), isNumber: true },
      { name: "Dead", value: ({ dead }) => number(dead), isNumber: true },
      { name: "Last delivered", value: ({ last_success_at: at }) => time(at) },
      {
        name: "Last failure",
        value: ({ last_failure: failure }) => (failure ? [time(failure.at), element("p.muted.small", {}, failure.detail)] : "–"),
      },
      {
        name: "Do",
        value: (endpoint) =>
          element(
            "div.actions",
            {},
            doing("Test", () => change(`${pathOf(endpoint.id)}/test`, "POST")),
            doing(endpoint.state === "disabled" ? "Switch on" : "Switch off", () =>
              change(pathOf(endpoint.id), "PATCH", { enabled: endpoint.state === "disabled" }),
            ),
            doing("Rotate", () => rotate(endpoint)),
            doing("Remove", () => remove(endpoint), { tag: "button.danger" }),
          ),
      },
    ],
  });
}

export function deliveries(place, { one, query, signal }) {
  const which = element(
    "select",
    { id: "which" },
    [
      ["", "All"],
      ["pending", "Waiting"],
      ["delivered", "Delivered"],
      ["dead", "Dead"],
    ].map(([value, name]) => element("option", { value, selected: (query.get("state") ?? "") === value }, name)),
  );
  which.addEventListener("change", () => {
    location.hash = `#/webhooks/${encodeURIComponent(one)}?state=${which.value}`;
  });
  place.append(
    element("p.links", {}, element("a", { href: "#/webhooks" }, "All endpoints")),
    element("div.fields", {}, element("label", { for: "which" }, "Deliveries"), which),
  );
  const table = list(place, {
    path: `${pathOf(one)}/deliveries`,
    query: { state: which.value },
    label: "Deliveries",
    empty: "Nothing has been sent to this endpoint.",
    signal,
    columns: [
      { name: "Event", value: ({ type, event_id: event }) => [type, element("p.muted.small", {}, event)] },
      { name: "Account", value: ({ account }) => account && element("a", { href: `#/accounts/${encodeURIComponent(account)}` }, account) },
      { name: "State", value: ({ state }) => badge(state, TONES[state]) },
      { name: "Attempts", value: ({ attempts }) => number(attempts), isNumber: true },
      { name: "Last answer", value: ({ last_status: status, last_error: error }) => [status, error].filter(Boolean).join(": ") || "–" },
      { name: "Next attempt", value: ({ next_attempt_at: at }) => time(at) },
      { name: "Made", value: ({ created_at: at }) => time(at) },
      {
        name: "Do",
        value: (delivery) =>
          doing("Send again", async () => {
            await ask("POST", `${pathOf(one)}/deliveries/${encodeURIComponent(delivery.id)}/resend`);
            await table.reload();
          }),
      },
    ],
  });
}
