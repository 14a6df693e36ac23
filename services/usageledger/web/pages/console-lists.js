/** Lists of the console: tables that say when they load, are empty, or could not be read. */

import { element } from "../usage-meter-elements.js";
import { ask, withQuery } from "./asking.js";
import { problemOf } from "./console-actions.js";
import { time } from "./console-words.js";

/** @typedef {import("../usage-meter-elements.js").Child} Child */
/**
 * @template Item
 * @typedef {object} Column
 * @property {string} name
 * @property {(item: Item) => Child | Child[]} value
 * @property {boolean} [isNumber]
 */
/**
 * @template Item
 * @typedef {{ items: Item[], next_cursor?: string | null, history_as_of?: string | null }} Page
 */

/**
 * Append a table of what `path` lists. On a phone each row becomes a card, in which the column's
 * name is written before its value.
 * @template Item
 * @param {HTMLElement} container
 * @param {object} options
 * @param {string} options.path
 * @param {Record<string, string | number>} [options.query]
 * @param {Column<Item>[]} options.columns
 * @param {string} options.empty What is said where there are no rows.
 * @param {AbortSignal} options.signal Ends when another view is shown.
 * @param {string} options.label
 * @returns {{ reload: () => Promise<void> }}
 */
export function appendList(container, { path, query = {}, columns, empty, signal, label }) {
  const body = element("tbody");
  const head = element("thead", {}, element("tr", {}, columns.map(headCell)));
  const state = element("div.state", { role: "status" });
  const more = element("button", { type: "button", hidden: true }, "Show more");
  const table = element("table", { "aria-label": label, hidden: true }, head, body);
  /** @type {string | null} */
  let cursor = null;

  /** @param {boolean} isAnew Whether the rows are replaced, not continued. */
  async function load(isAnew) {
    more.disabled = true;
    if (isAnew && !body.children.length) state.replaceChildren("Loading…");
    try {
      const url = withQuery(path, { ...query, cursor: isAnew ? null : cursor });
      /** @type {Page<Item>} */
      const page = await ask("GET", url);
      if (signal.aborted) return;
      cursor = page.next_cursor ?? null;
      addRows(
        body,
        page.items.map((item) => row(item, columns)),
        isAnew,
      );
      const hints = [
        !body.children.length && element("p.empty", {}, empty),
        page.history_as_of && historyHint(page.history_as_of),
      ];
      state.replaceChildren(...hints.filter((hint) => hint instanceof Node));
    } catch (error) {
      if (!signal.aborted) state.replaceChildren(problemOf(error, () => load(isAnew)));
    }
    table.hidden = !body.children.length;
    more.hidden = cursor === null;
    more.disabled = false;
  }

  more.addEventListener("click", () => load(false));
  container.append(element("div.table", {}, table), state, more);
  load(true);
  return { reload: () => load(true) };
}

/**
 * Add or replace rows. Where a row is replaced whose button has the focus, the button in its place
 * gets the focus.
 * @param {HTMLElement} body
 * @param {HTMLElement[]} rows
 * @param {boolean} isAnew
 */
function addRows(body, rows, isAnew) {
  const active = /** @type {HTMLButtonElement} */ (document.activeElement);
  const focused = [...body.querySelectorAll("button")].indexOf(active);
  if (isAnew) body.replaceChildren(...rows);
  else body.append(...rows);
  if (focused >= 0) body.querySelectorAll("button")[focused]?.focus();
}

/**
 * @template Item
 * @param {Column<Item>} column
 */
const headCell = ({ name, isNumber }) =>
  element(isNumber ? "th.number" : "th", { scope: "col" }, name);

/**
 * @template Item
 * @param {Item} item
 * @param {Column<Item>[]} columns
 */
function row(item, columns) {
  const cells = columns.map(({ name, value, isNumber }) =>
    element(isNumber ? "td.number" : "td", { "data-name": name }, value(item) ?? "–"),
  );
  return element("tr", {}, cells);
}

/** @param {string} asOf */
const historyHint = (asOf) =>
  element("p.muted.small", {}, "The history is not up to date: it ends at ", time(asOf), ".");

/**
 * A word with a colour.
 * @param {string} text
 * @param {"good" | "warning" | "danger" | ""} [tone]
 */
export function badge(text, tone = "") {
  return element("span.badge", { "data-tone": tone }, text);
}
