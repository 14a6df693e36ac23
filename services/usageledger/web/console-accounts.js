/** Accounts: search, one account's meter, who is blocked. */

import "/usage-meter.js";
import { ask } from "./asking.js";
import { badge, list } from "./console-lists.js";
import { number, time } from "./console-words.js";
import { element } from "./elements.js";

const linkTo = (name) => element("a", { href: `#/accounts/${encodeURIComponent(name)}` }, name);

export function accounts(place, { query, signal }) {
  const search = element("input", {
    type: "search",
    id: "search",
    name: "search",
    value: query.get("search") ?? "",
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
  // The search is a part of the address, so it can be linked to and gone back to.
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = search.value ? `#/accounts?search=${encodeURIComponent(search.value)}` : "#/accounts";
  });
  place.append(form);
  list(place, {
    path: "/v1/accounts",
    query: { search: query.get("search") ?? "", limit: 50 },
    label: "Accounts",
    empty: query.get("search") ? "No account has this in its name." : "No account has done anything yet.",
    signal,
    columns: [
      { name: "Account", value: ({ account }) => linkTo(account) },
      { name: "Plan", value: ({ plan, plan_name: name }) => name ?? plan },
      { name: "Used", value: ({ used }) => number(used), isNumber: true },
      { name: "Remaining", value: ({ remaining }) => number(remaining), isNumber: true },
      { name: "State", value: (found) => (found.blocked ? badge("blocked", "danger") : badge("may use", "good")) },
      { name: "Last used", value: ({ last_used_at: at }) => time(at) },
    ],
  });
}

export function account(place, { one }) {
  const meter = element("usage-meter", { account: one });
  meter.tokenProvider = async () => (await ask("POST", `/v1/accounts/${encodeURIComponent(one)}/tokens`, {})).token;
  place.append(
    element(
      "p.links",
      {},
      element("a", { href: `/accounts/${encodeURIComponent(one)}/meter` }, "Its own page"),
      element("a", { href: "#/accounts" }, "All accounts"),
    ),
    meter,
  );
}

export function blocked(place, { signal }) {
  list(place, {
    path: "/v1/blocked",
    query: { limit: 50 },
    label: "Blocked accounts",
    empty: "Nobody is blocked.",
    signal,
    columns: [
      { name: "Account", value: (found) => linkTo(found.account) },
      {
        name: "Reason",
        value: ({ reason, suspension }) =>
          badge([reason, suspension].filter(Boolean).join(": ").replaceAll("_", " "), suspension ? "warning" : "danger"),
      },
      { name: "Since", value: ({ since }) => time(since) },
      { name: "Plan", value: ({ plan }) => plan },
      { name: "Remaining", value: ({ remaining }) => number(remaining), isNumber: true },
      {
        name: "Cleared by",
        value: ({ upgrade }) => (upgrade ? `${upgrade.name ?? upgrade.plan} (${number(upgrade.allotment)} credits)` : "–"),
      },
    ],
  });
}
