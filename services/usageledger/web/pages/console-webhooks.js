/** Webhooks: endpoints, what was delivered to each, and how to send it again. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { accountLink } from "./console-accounts.js";
import { actionButton, isConfirmed, onSubmit, showSecret } from "./console-actions.js";
import { appendList, badge } from "./console-lists.js";
import { number, time } from "./console-words.js";

/** @typedef {Gateway.EndpointShown["state"] | Gateway.DeliveryShown["state"]} State */

/** @type {Record<State, "" | "good" | "warning" | "danger">} */
const TONES = {
  active: "good",
  delivered: "good",
  pending: "",
  failing: "warning",
  dead: "danger",
  disabled: "danger",
};
const OVERLAP_S = 86_400;
const SHOWN_ONCE = "It is shown only now.";

/** @param {string} id */
const pathOf = (id) => `/v1/webhooks/${encodeURIComponent(id)}`;

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showWebhooks(container, { signal }) {
  /** @returns {Promise<void>} */
  const reload = () => table.reload();
  container.append(newEndpointForm(reload));
  const table = appendList(container, {
    path: "/v1/webhooks",
    label: "Webhook endpoints",
    empty: "There is no endpoint yet.",
    signal,
    columns: endpointColumns(reload),
  });
}

/** @param {() => Promise<void>} onMade */
function newEndpointForm(onMade) {
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
  onSubmit(form, async () => {
    /** @type {Gateway.EndpointMade} */
    const made = await ask("POST", "/v1/webhooks", { url: url.value });
    url.value = "";
    const text = `Receivers verify signatures with it. ${SHOWN_ONCE}`;
    await showSecret("The endpoint’s secret", made.secret, text);
    await onMade();
  });
  return form;
}

/**
 * @param {() => Promise<void>} reload
 * @returns {import("./console-lists.js").Column<Gateway.EndpointShown>[]}
 */
function endpointColumns(reload) {
  return [
    {
      name: "Endpoint",
      value: ({ id, url, types, accounts, description }) => [
        element("a", { href: `#/webhooks/${encodeURIComponent(id)}` }, url),
        element(
          "p.muted.small",
          {},
          [types.join(", "), accounts?.join(", "), description].filter(Boolean).join(" · "),
        ),
      ],
    },
    {
      name: "State",
      value: ({ state, disabled_because: reason }) => [
        badge(state, TONES[state]),
        reason && element("p.muted.small", {}, reason),
      ],
    },
    { name: "Waiting", value: ({ pending }) => number(pending), isNumber: true },
    { name: "Dead", value: ({ dead }) => number(dead), isNumber: true },
    { name: "Last delivered", value: ({ last_success_at: at }) => time(at) },
    {
      name: "Last failure",
      value: ({ last_failure: failure }) =>
        failure && [time(failure.at), element("p.muted.small", {}, failure.detail)],
    },
    { name: "Do", value: (endpoint) => endpointActions(endpoint, reload) },
  ];
}

/**
 * @param {Gateway.EndpointShown} endpoint
 * @param {() => Promise<void>} reload
 */
function endpointActions({ id, url, state }, reload) {
  const path = pathOf(id);
  /** @param {string} method @param {string} to @param {object} [body] */
  const change = async (method, to, body) => {
    await ask(method, to, body);
    await reload();
  };
  const rotate = async () => {
    /** @type {Gateway.EndpointMade} */
    const { secret } = await ask("POST", `${path}/rotate`, { overlap_s: OVERLAP_S });
    await showSecret("The new secret", secret, `For a day, both secrets sign. ${SHOWN_ONCE}`);
  };
  const remove = async () => {
    const text = `Nothing more is sent to ${url}; what waits for it is dropped.`;
    if (await isConfirmed("Remove this endpoint?", text, "Remove")) await change("DELETE", path);
  };
  const isDisabled = state === "disabled";
  return element(
    "div.actions",
    {},
    actionButton("Test", () => change("POST", `${path}/test`)),
    actionButton(isDisabled ? "Switch on" : "Switch off", () =>
      change("PATCH", path, { enabled: isDisabled }),
    ),
    actionButton("Rotate", rotate),
    actionButton("Remove", remove, "button.danger"),
  );
}

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showDeliveries(container, { one, query, signal }) {
  const state = query.get("state") ?? "";
  const which = element(
    "select",
    { id: "which" },
    [
      ["", "All"],
      ["pending", "Waiting"],
      ["delivered", "Delivered"],
      ["dead", "Dead"],
    ].map(([value, name]) => element("option", { value, selected: value === state }, name)),
  );
  which.addEventListener("change", () => {
    location.hash = `#/webhooks/${encodeURIComponent(one)}?state=${which.value}`;
  });
  container.append(
    element("p.links", {}, element("a", { href: "#/webhooks" }, "All endpoints")),
    element("div.fields", {}, element("label", { for: "which" }, "Deliveries"), which),
  );
  const path = `${pathOf(one)}/deliveries`;
  const table = appendList(container, {
    path,
    query: { state },
    label: "Deliveries",
    empty: "Nothing has been sent to this endpoint.",
    signal,
    columns: deliveryColumns(async (id) => {
      await ask("POST", `${path}/${encodeURIComponent(id)}/resend`);
      await table.reload();
    }),
  });
}

/**
 * @param {(id: string) => Promise<void>} resend
 * @returns {import("./console-lists.js").Column<Gateway.DeliveryShown>[]}
 */
function deliveryColumns(resend) {
  return [
    { name: "Event", value: ({ type, event_id: id }) => [type, element("p.muted.small", {}, id)] },
    { name: "Account", value: ({ account }) => account && accountLink(account) },
    { name: "State", value: ({ state }) => badge(state, TONES[state]) },
    { name: "Attempts", value: ({ attempts }) => number(attempts), isNumber: true },
    {
      name: "Last answer",
      value: ({ last_status: status, last_error: error }) =>
        [status, error].filter(Boolean).join(": ") || "–",
    },
    { name: "Next attempt", value: ({ next_attempt_at: at }) => time(at) },
    { name: "Made", value: ({ created_at: at }) => time(at) },
    { name: "Do", value: ({ id }) => actionButton("Send again", () => resend(id)) },
  ];
}
