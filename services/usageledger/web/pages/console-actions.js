/** The console's buttons, forms and dialogs. Each shows its own failure. */

import { element } from "../usage-meter-elements.js";

/** @typedef {import("../usage-meter-elements.js").Child} Child */

/**
 * An error's message, and a button to try again.
 * @param {unknown} error
 * @param {() => unknown} again
 */
export function problemOf(error, again) {
  return element(
    "div.failed",
    { role: "alert" },
    element("p.problem", {}, messageOf(error)),
    element("button", { type: "button", click: again }, "Try again"),
  );
}

/**
 * A button that acts once at a time. A failure is written beside it.
 * @param {string} name
 * @param {() => Promise<unknown>} act
 * @param {"button" | "button.danger"} [tag]
 */
export function actionButton(name, act, tag = "button") {
  const button = element(tag, { type: "button" }, name);
  button.addEventListener("click", async () => {
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // Not `disabled`, which would lose the focus.
    button.parentElement?.querySelector(".problem")?.remove();
    try {
      await act();
    } catch (error) {
      button.after(element("p.problem.small", { role: "alert" }, messageOf(error)));
    } finally {
      button.ariaDisabled = "false";
    }
  });
  return button;
}

/**
 * Act when a form is sent, once at a time. A failure is written in the form.
 * @param {HTMLFormElement} form
 * @param {() => Promise<unknown>} act
 */
export function onSubmit(form, act) {
  const problem = element("p.problem", { role: "alert" });
  let isBusy = false;
  form.append(problem);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (isBusy) return;
    isBusy = true;
    problem.textContent = "";
    try {
      await act();
    } catch (error) {
      problem.textContent = messageOf(error);
    } finally {
      isBusy = false;
    }
  });
}

/**
 * Ask before something that cannot be undone. Resolves to whether the answer is yes.
 * @param {string} title
 * @param {string} text
 * @param {string} action The name of the button that says yes.
 */
export async function isConfirmed(title, text, action) {
  const answer = await showDialog(
    title,
    [element("p", {}, text)],
    [
      element("button.danger", { value: "yes" }, action),
      element("button", { value: "" }, "Cancel"),
    ],
  );
  return answer === "yes";
}

/**
 * Show a secret, once.
 * @param {string} title
 * @param {string} secret
 * @param {string} text
 */
export function showSecret(title, secret, text) {
  const field = element("input", { readonly: true, value: secret, "aria-label": title });
  const copy = element("button", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    field.select();
    await navigator.clipboard?.writeText(secret); // Undefined where the page came over plain HTTP.
    copy.textContent = "Copied";
  });
  return showDialog(
    title,
    [element("p", {}, text), element("div.fields", {}, field, copy)],
    [element("button.primary", { value: "done" }, "I have stored it")],
  );
}

/**
 * Show a dialog with buttons. Resolves to the value of the button that closed it.
 * @param {string} title
 * @param {Child[]} content
 * @param {HTMLButtonElement[]} buttons
 * @returns {Promise<string>}
 */
function showDialog(title, content, buttons) {
  const dialog = element(
    "dialog",
    { "aria-label": title },
    element("h2", {}, title),
    content,
    element("form.fields", { method: "dialog" }, buttons),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/** @param {unknown} error */
export const messageOf = (error) => (error instanceof Error ? error.message : String(error));
