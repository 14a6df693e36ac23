/** Signing in: a key goes to the gateway once and comes back as a cookie that no script reads. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { messageOf } from "./console-actions.js";

/**
 * Whether somebody is signed in, and with which scopes.
 * @returns {Promise<{ is_signed_in: boolean, scopes: string[] }>}
 */
export function session() {
  return ask("GET", "/session");
}

/**
 * A form that asks for a key.
 * @param {string} reason A sentence that says why a key is needed.
 * @param {() => Promise<void>} onSignedIn
 */
export function signInForm(reason, onSignedIn) {
  const problem = element("p.problem", { role: "alert" });
  const key = element("input", {
    id: "key",
    type: "password",
    name: "key",
    autocomplete: "current-password",
    required: true,
    spellcheck: "false",
    placeholder: "ulk_…",
  });
  const submit = element("button.primary", { type: "submit" }, "Sign in");
  const form = element(
    "form.sign-in",
    {},
    element("h2", {}, "Sign in"),
    element("p.muted", {}, reason),
    // A password manager stores the key under this name.
    element("input", {
      name: "username",
      autocomplete: "username",
      value: "usageledger",
      hidden: true,
    }),
    element("label", { for: "key" }, "App key"),
    key,
    problem,
    submit,
    element(
      "p.muted.small",
      {},
      "Make keys with ",
      element("code", {}, "usageledger keys create"),
      ". The browser stores a session of twelve hours, not the key.",
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.textContent = "";
    try {
      await ask("POST", "/session", { key: key.value.trim() });
      await onSignedIn();
    } catch (error) {
      problem.textContent = messageOf(error);
      key.focus();
    } finally {
      submit.disabled = false;
    }
  });
  return form;
}

/** End the session and load the page anew. */
export async function signOut() {
  await ask("DELETE", "/session");
  location.reload();
}
