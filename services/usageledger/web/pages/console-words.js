/** How the console writes times, numbers and prices. */

import { element } from "../usage-meter-elements.js";

/**
 * A time as the reader's browser writes it. Its tooltip has the whole of it.
 * @param {string | null | undefined} text
 */
export function time(text) {
  if (!text) return "–";
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  return element("time", { datetime: text, title: text }, format.format(new Date(text)));
}

/**
 * A decimal, grouped as in the reader's language, with every place that it has.
 * @param {string | number | null | undefined} decimal
 */
export function number(decimal) {
  if (decimal === null || decimal === undefined) return "–";
  const written = /** @type {Intl.StringNumericLiteral} */ (String(decimal));
  return new Intl.NumberFormat(undefined, { maximumFractionDigits: 6 }).format(written);
}

/**
 * A price of the catalog.
 * @param {number} cents Cents of US dollars.
 */
export function price(cents) {
  return new Intl.NumberFormat(undefined, {
    style: "currency",
    currency: "USD",
    currencyDisplay: "narrowSymbol",
  }).format(cents / 100);
}
