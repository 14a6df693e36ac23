/** Accounts: search, one account's meter, and the blocked accounts. */

import "../usage-meter.js";
import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { appendList, badge } from "./console-lists.js";
import { number, time } from "./console-words.js";

/** @param {string} account */
export const accountLink = (account) =>
  element("a", { href: `#/accounts/${encodeURIComponent(account)}` }, account);

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showAccounts(container, { query, signal }) {
  const searched = query.get("search") ?? "";
  container.append(searchForm(searched));
  /** @type {import("./console-lists.js").Column<Gateway.AccountShown>[]} */
  const columns = [
    { name: "Account", value: ({ account }) => accountLink(account) },
    { name: "Plan", value: ({ plan, plan_name: name }) => name ?? plan },
    { name: "Used", value: ({ used }) => number(used), isNumber: true },
    { name: "Remaining", value: ({ remaining }) => number(remaining), isNumber: true },
    {
      name: "State",
      value: ({ blocked }) => (blocked ? badge("blocked", "danger") : badge("may use", "good")),
    },
    { name: "Last used", value: ({ last_used_at: at }) => time(at) },
  ];
  appendList(container, {
    path: "/v1/accounts",
    query: { search: searched, limit: 50 },
    label: "Accounts",
    empty: searched ? "No account has this in its name." : "No account has used anything yet.",
    signal,
    columns,
  });
}

/** @param {string} searched */
function searchForm(searched) {
  const search = element("input", {
    type: "search",
    id: "search",
    name: "search",
    value: searched,
    placeholder: "Part of an account’s name",
    autocomplete: "off",
    spellcheck: "false",
  });
  const form = element(
    "form.fields.search",
    { role: "search" },
    element("label.said", { for: "search" }, "Search accounts"),
    search,
    element("button", { type: "submit" }, "Search"),
  );
  // The search is part of the address: it can be linked to, and the browser goes back to it.
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = search.value
      ? `#/accounts?search=${encodeURIComponent(search.value)}`
      : "#/accounts";
  });
  return form;
}

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showAccount(container, { one }) {
  const path = `/v1/accounts/${encodeURIComponent(one)}/tokens`;
  const meter = element("usage-meter", { account: one });
  meter.tokenProvider = async () => {
    /** @type {Gateway.AccountToken} */
    const { token } = await ask("POST", path, {});
    return token;
  };
  const ownPage = `/accounts/${encodeURIComponent(one)}/meter`;
  container.append(
    element(
      "p.links",
      {},
      element("a", { href: ownPage }, "Its own page"),
      element("a", { href: "#/accounts" }, "All accounts"),
    ),
    meter,
  );
}

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showBlocked(container, { signal }) {
  /** @type {import("./console-lists.js").Column<Gateway.Blocked>[]} */
  const columns = [
    { name: "Account", value: ({ account }) => accountLink(account) },
    {
      name: "Reason",
      value: ({ reason, suspension }) => {
        const text = [reason, suspension].filter(Boolean).join(": ").replaceAll("_", " ");
        return badge(text, suspension ? "warning" : "danger");
      },
    },
    { name: "Since", value: ({ since }) => time(since) },
    { name: "Plan", value: ({ plan }) => plan },
    { name: "Remaining", value: ({ remaining }) => number(remaining), isNumber: true },
    {
      name: "Cleared by",
      value: ({ upgrade }) =>
        upgrade ? `${upgrade.name ?? upgrade.plan} (${number(upgrade.allotment)} credits)` : "–",
    },
  ];
  appendList(container, {
    path: "/v1/blocked",
    query: { limit: 50 },
    label: "Blocked accounts",
    empty: "No account is blocked.",
    signal,
    columns,
  });
}
