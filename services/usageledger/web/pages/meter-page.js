/** The page around one account's meter. Whoever is signed in gets short-lived tokens for it. */

import "../usage-meter.js";
import { element, find } from "../usage-meter-elements.js";
import { ask, Problem } from "./asking.js";
import { messageOf } from "./console-actions.js";
import { session, signInForm, signOut } from "./signing-in.js";

const TOKEN_LIFE_S = 900;

const account = decodeURIComponent(location.pathname.split("/")[2] ?? "");
const container = find(document, "#place");
const signOutButton = find(document, "#sign-out");

document.title = `${account} · usage`;
find(document, "#account").textContent = account;
signOutButton.addEventListener("click", signOut);

async function begin() {
  const { is_signed_in: isSignedIn } = await session();
  signOutButton.hidden = !isSignedIn;
  if (!isSignedIn) {
    const reason = "To see an account’s meter, use a key with the scope read.";
    container.replaceChildren(signInForm(reason, begin));
    return;
  }
  const meter = element("usage-meter", { account });
  meter.tokenProvider = mintToken;
  meter.addEventListener("usage-meter:upgrade", (event) =>
    showOffer(/** @type {CustomEvent<{ name: string, plan: string }>} */ (event).detail),
  );
  container.replaceChildren(meter);
}

/** Mint a token. Where the session is over, the form comes back. */
async function mintToken() {
  try {
    const path = `/v1/accounts/${encodeURIComponent(account)}/tokens`;
    /** @type {Gateway.AccountToken} */
    const { token } = await ask("POST", path, { expires_in: TOKEN_LIFE_S });
    return token;
  } catch (error) {
    if (error instanceof Problem && error.status === 401) await begin();
    throw error;
  }
}

/**
 * Say where an app would continue: this page sells nothing.
 * @param {{ name: string, plan: string }} offer
 */
function showOffer({ name, plan }) {
  find(document, "#offer-title").textContent = `Upgrade to ${name}`;
  const text = `Here your app continues: it sells the plan “${plan}” to ${account}.`;
  find(document, "#offer-text").textContent = text;
  /** @type {HTMLDialogElement} */ (find(document, "#offer")).showModal();
}

begin().catch((error) =>
  container.replaceChildren(element("p.problem", { role: "alert" }, messageOf(error))),
);
