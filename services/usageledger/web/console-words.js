/** How the console writes times, numbers, prices, and the addresses that it asks. */

import { element } from "./elements.js";

/** A time as the reader's browser writes it, with the whole of it at hand. */
export function time(text) {
  if (!text) return "–";
  const shown = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(text));
  return element("time", { datetime: text, title: text }, shown);
}

/** A decimal, grouped as the reader's language does it, to the last place. */
export function number(decimal) {
  return decimal === null || decimal === undefined ? "–" : new Intl.NumberFormat(undefined, { maximumFractionDigits: 6 }).format(decimal);
}

/** A price of the catalog, which is in cents of US dollars. */
export function price(cents) {
  const options = { style: "currency", currency: "USD", currencyDisplay: "narrowSymbol" };
  return new Intl.NumberFormat(undefined, options).format(cents / 100);
}

/** A path with its parameters; those without a value are left out. */
export function withQuery(path, parameters) {
  const query = new URLSearchParams(
    Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined),
  );
  return query.size ? `${path}?${query}` : path;
}
