/** Lists of the console: a table that says when it is loading, empty or could not be read, and goes on by cursor. */

import { ask } from "./asking.js";
import { time, withQuery } from "./console-words.js";
import { element } from "./elements.js";

/**
 * A table of what `path` lists, put into `place`. Columns are `{name, value, isNumber}`; on a phone each row becomes a small card, in which
 * the column's name stands before its value. Returns `{reload, items}`.
 */
export function list(place, { path, query = {}, columns, empty, signal, label, mark }) {
  const body = element("tbody");
  const head = element(
    "thead",
    {},
    element(
      "tr",
      {},
      columns.map(({ name, isNumber }) => element(isNumber ? "th.number" : "th", { scope: "col" }, name)),
    ),
  );
  const state = element("div.state", { role: "status" });
  const more = element("button", { type: "button", hidden: true, click: () => load(false) }, "Show more");
  const table = element("table", { "aria-label": label }, head, body);
  const items = [];
  let cursor = null;

  async function load(isAnew) {
    more.disabled = true;
    if (isAnew && !items.length) state.replaceChildren("Loading…");
    try {
      const page = await ask(
        "GET",
        withQuery(path, { ...(typeof query === "function" ? query() : query), cursor: isAnew ? null : cursor }),
      );
      if (signal.aborted) return;
      if (isAnew) items.length = 0;
      items.push(...page.items);
      cursor = page.next_cursor ?? null;
      // A button that was pressed is in a row that is made anew: its successor gets the focus back.
      const pressed = [...body.querySelectorAll("button")].indexOf(document.activeElement);
      const rows = (isAnew ? items : page.items).map((item) => row(item, columns, mark));
      if (isAnew) body.replaceChildren(...rows);
      else body.append(...rows);
      if (pressed >= 0) body.querySelectorAll("button")[pressed]?.focus();
      const behind =
        page.history_as_of &&
        element("p.muted.small", {}, "The history is not up to date yet: complete up to ", time(page.history_as_of), ".");
      state.replaceChildren(...[!items.length && element("p.empty", {}, empty), behind].filter(Boolean));
    } catch (error) {
      if (!signal.aborted) state.replaceChildren(problemOf(error, () => load(isAnew)));
    }
    table.hidden = !items.length;
    more.hidden = cursor === null;
    more.disabled = false;
  }

  place.append(element("div.table", {}, table), state, more);
  table.hidden = true;
  load(true);
  return { reload: () => load(true), items };
}

function row(item, columns, mark) {
  const cells = columns.map(({ name, value, isNumber }) =>
    element(isNumber ? "td.number" : "td", { "data-name": name }, value(item) ?? "–"),
  );
  return element("tr", { class: mark?.(item) }, cells);
}

/** What went wrong, as a sentence, and a way to try again. */
export function problemOf(error, again) {
  return element(
    "div.failed",
    { role: "alert" },
    element("p.problem", {}, error.message),
    again && element("button", { type: "button", click: again }, "Try again"),
  );
}

/** Do something when a button is pressed: once at a time, and what goes wrong is said beside it. */
export function doing(name, act, properties = {}) {
  const button = element(properties.tag ?? "button", { type: "button" }, name);
  button.addEventListener("click", async () => {
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true"; // Not `disabled`, which would take the focus away.
    button.parentElement.querySelector(".problem")?.remove();
    try {
      await act();
    } catch (error) {
      button.after(element("p.problem.small", { role: "alert" }, error.message));
    } finally {
      button.ariaDisabled = "false";
    }
  });
  return button;
}

/** Do something when a form is sent: once at a time, and what goes wrong is said in it. */
export function sending(form, act) {
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
      problem.textContent = error.message;
    } finally {
      isBusy = false;
    }
  });
  return form;
}

/** Ask whether something is to be done that cannot be undone. Resolves to whether it is. */
export function confirmed(title, text, action) {
  return dialog(
    title,
    [element("p", {}, text)],
    [element("button.danger", { value: "yes" }, action), element("button", { value: "" }, "Cancel")],
  ).then((answer) => answer === "yes");
}

/** Show a secret, once. */
export function showSecret(title, secret, text) {
  const field = element("input", { readonly: true, value: secret, "aria-label": title });
  const copy = element(
    "button",
    {
      type: "button",
      click: async () => {
        field.select();
        await navigator.clipboard?.writeText(secret);
        copy.textContent = "Copied";
      },
    },
    "Copy",
  );
  return dialog(
    title,
    [element("p", {}, text), element("div.fields", {}, field, copy)],
    [element("button.primary", { value: "done" }, "I have kept it")],
  );
}

/** A dialog with buttons; resolves to the value of the one that closed it. */
export function dialog(title, content, buttons) {
  const made = element(
    "dialog",
    { "aria-label": title },
    element("h2", {}, title),
    content,
    element("form.fields", { method: "dialog" }, buttons),
  );
  document.body.append(made);
  made.showModal();
  return new Promise((resolve) => {
    made.addEventListener("close", () => {
      made.remove();
      resolve(made.returnValue);
    });
  });
}

/** A small word with a colour: `tone` is good, warning, danger or none. */
export function badge(text, tone = "") {
  return element("span.badge", { "data-tone": tone }, text);
}
