/** The operator's console: a view for each address behind the `#`, so that every one can be linked to. */

import { account, accounts, blocked } from "./console-accounts.js";
import { catalogs } from "./console-catalogs.js";
import { keys } from "./console-keys.js";
import { partitions } from "./console-partitions.js";
import { refusals } from "./console-refusals.js";
import { deliveries, webhooks } from "./console-webhooks.js";
import { element } from "./elements.js";
import { session, signInForm, signOut } from "./signing-in.js";

const VIEWS = [
  { name: "accounts", title: "Accounts", show: accounts, showOne: account },
  { name: "blocked", title: "Blocked", show: blocked },
  { name: "refusals", title: "Refusals", show: refusals },
  { name: "partitions", title: "Partitions", show: partitions },
  { name: "catalogs", title: "Catalogs", show: catalogs },
  { name: "webhooks", title: "Webhooks", show: webhooks, showOne: deliveries },
  { name: "keys", title: "Keys", show: keys },
];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
let shown = new AbortController();

function build() {
  nav.replaceChildren(...VIEWS.map(({ name, title }) => element("a", { href: `#/${name}` }, title)));
  document.getElementById("sign-out").addEventListener("click", signOut);
  window.addEventListener("hashchange", route);
}

async function begin() {
  const { is_signed_in: isSignedIn, scopes } = await session();
  const isOperator = scopes.includes("admin");
  nav.hidden = !isOperator;
  document.getElementById("sign-out").hidden = !isSignedIn;
  if (isOperator) return route();
  const why = isSignedIn
    ? "You are signed in with a key that lacks the scope admin. The console needs one that has it."
    : "The console is for operators: it needs a key with the scope admin.";
  main.replaceChildren(signInForm(why, begin));
}

/** Show what the address names. What the last view still waits for is dropped. */
function route() {
  shown.abort();
  shown = new AbortController();
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, one] = path.split("/").map(decodeURIComponent);
  const view = VIEWS.find((found) => found.name === name) ?? VIEWS[0];
  for (const link of nav.children) link.setAttribute("aria-current", link.hash === `#/${view.name}` ? "page" : "false");
  nav.querySelector("[aria-current='page']").scrollIntoView({ block: "nearest", inline: "nearest" });
  const title = element("h1", { tabindex: -1 }, one ?? view.title);
  const place = element("div.view");
  main.replaceChildren(title, place);
  document.title = `${one ?? view.title} · usageledger`;
  if (document.activeElement !== document.body) title.focus({ preventScroll: true });
  const show = one === undefined ? view.show : (view.showOne ?? view.show);
  show(place, { one, query: new URLSearchParams(query), signal: shown.signal });
}

build();
begin().catch((error) => main.replaceChildren(element("p.problem", { role: "alert" }, error.message)));
