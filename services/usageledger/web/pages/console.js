/** The operator's console: one view for each address behind the `#`, so that each can be linked. */

import { element, find } from "../usage-meter-elements.js";
import { showAccount, showAccounts, showBlocked } from "./console-accounts.js";
import { messageOf } from "./console-actions.js";
import { showCatalogs } from "./console-catalogs.js";
import { showKeys } from "./console-keys.js";
import { showPartitions } from "./console-partitions.js";
import { showRefusals } from "./console-refusals.js";
import { showDeliveries, showWebhooks } from "./console-webhooks.js";
import { session, signInForm, signOut } from "./signing-in.js";

/** @typedef {(container: HTMLElement, address: Address) => unknown} Show */

/** @typedef {{ name: string, title: string, show: Show, showOne?: Show }} View */

const DEFAULT_VIEW = {
  name: "accounts",
  title: "Accounts",
  show: showAccounts,
  showOne: showAccount,
};
/** @type {View[]} */
const VIEWS = [
  DEFAULT_VIEW,
  { name: "blocked", title: "Blocked", show: showBlocked },
  { name: "refusals", title: "Refusals", show: showRefusals },
  { name: "partitions", title: "Partitions", show: showPartitions },
  { name: "catalogs", title: "Catalogs", show: showCatalogs },
  { name: "webhooks", title: "Webhooks", show: showWebhooks, showOne: showDeliveries },
  { name: "keys", title: "Keys", show: showKeys },
];

const main = find(document, "#main");
const nav = find(document, "#nav");
const signOutButton = find(document, "#sign-out");
let shown = new AbortController();

function build() {
  nav.replaceChildren(
    ...VIEWS.map(({ name, title }) => element("a", { href: `#/${name}` }, title)),
  );
  signOutButton.addEventListener("click", signOut);
  window.addEventListener("hashchange", route);
}

async function begin() {
  const { is_signed_in: isSignedIn, scopes } = await session();
  const isOperator = scopes.includes("admin");
  nav.hidden = !isOperator;
  signOutButton.hidden = !isSignedIn;
  if (isOperator) {
    route();
    return;
  }
  const reason = isSignedIn
    ? "You are signed in with a key that lacks the scope admin. The console needs one that has it."
    : "The console is for operators: it needs a key with the scope admin.";
  main.replaceChildren(signInForm(reason, begin));
}

/** Show the view that the address names. Requests of the last view are dropped. */
function route() {
  shown.abort();
  shown = new AbortController();
  const [path = "", query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, one] = path.split("/").map(decodeURIComponent);
  const view = VIEWS.find((known) => known.name === name) ?? DEFAULT_VIEW;
  markCurrent(view);
  const title = element("h1", { tabindex: -1 }, one ?? view.title);
  const container = element("div.view");
  main.replaceChildren(title, container);
  document.title = `${one ?? view.title} · usageledger`;
  if (document.activeElement !== document.body) title.focus({ preventScroll: true });
  const show = one === undefined ? view.show : (view.showOne ?? view.show);
  const address = { one: one ?? "", query: new URLSearchParams(query), signal: shown.signal };
  show(container, address);
}

/** @param {View} view */
function markCurrent(view) {
  for (const link of nav.querySelectorAll("a")) {
    const isCurrent = link.hash === `#/${view.name}`;
    link.setAttribute("aria-current", isCurrent ? "page" : "false");
    if (isCurrent) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

build();
begin().catch((error) =>
  main.replaceChildren(element("p.problem", { role: "alert" }, messageOf(error))),
);
