/** The page around one account's usage meter. Who is signed in gets a short-lived token for this account, and the meter uses that. */

import "/usage-meter.js";
import { ask } from "./asking.js";
import { element } from "./elements.js";
import { session, signInForm, signOut } from "./signing-in.js";

const account = decodeURIComponent(location.pathname.split("/")[2]);
const place = document.getElementById("place");

document.title = `${account} · usage`;
document.getElementById("account").textContent = account;
document.getElementById("sign-out").addEventListener("click", signOut);

async function begin() {
  const { is_signed_in: isSignedIn } = await session();
  document.getElementById("sign-out").hidden = !isSignedIn;
  if (!isSignedIn) {
    place.replaceChildren(signInForm("The meter of an account is shown to who has a key with the scope read.", begin));
    return;
  }
  const meter = element("usage-meter", { account });
  meter.tokenProvider = mint;
  meter.addEventListener("usage-meter:upgrade", showOffer);
  place.replaceChildren(meter);
}

/** A token of a quarter of an hour. Where the session is over, the form comes back. */
async function mint() {
  try {
    return (await ask("POST", `/v1/accounts/${encodeURIComponent(account)}/tokens`, { expires_in: 900 })).token;
  } catch (error) {
    if (error.status === 401) await begin();
    throw error;
  }
}

/** This page is not the app that sells: it says where an app takes over. */
function showOffer({ detail }) {
  document.getElementById("offer-title").textContent = `Upgrade to ${detail.name}`;
  const told = `Here your app takes over: it sells the plan “${detail.plan}” to ${detail.account}.`;
  document.getElementById("offer-text").textContent = told;
  document.getElementById("offer").showModal();
}

begin().catch((error) => place.replaceChildren(element("p.problem", { role: "alert" }, error.message)));
