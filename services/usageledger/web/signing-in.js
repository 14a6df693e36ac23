/** Signing in to our pages: a key goes to the gateway once and comes back as a cookie that no script can read. */

import { element } from "./elements.js";
import { ask } from "./asking.js";

/** Whether somebody is signed in, and with which scopes. */
export async function session() {
  return ask("GET", "/session");
}

/** A form that asks for a key; `onDone` is called once the key has been taken. `why`: a sentence above it. */
export function signInForm(why, onDone) {
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
    element("p.muted", {}, why),
    element("input", { name: "username", autocomplete: "username", value: "usageledger", hidden: true }),
    element("label", { for: "key" }, "App key"),
    key,
    problem,
    submit,
    element(
      "p.muted.small",
      {},
      "Keys are made by ",
      element("code", {}, "usageledger keys create"),
      ". The browser keeps a session of twelve hours, not the key.",
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.textContent = "";
    try {
      await ask("POST", "/session", { key: key.value.trim() });
      await onDone();
    } catch (error) {
      problem.textContent = error.message;
      key.focus();
    } finally {
      submit.disabled = false;
    }
  });
  return form;
}

/** End the session and begin anew. */
export async function signOut() {
  await ask("DELETE", "/session");
  location.reload();
}
