/** Catalogs: two versions side by side, with their differences marked. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { problemOf } from "./console-actions.js";
import { badge } from "./console-lists.js";
import { number, price, time } from "./console-words.js";

/** @typedef {"added" | "removed" | "changed"} Change */

/** @type {Record<Change, "good" | "danger" | "warning">} */
const TONES = { added: "good", removed: "danger", changed: "warning" };

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export async function showCatalogs(container, address) {
  const { query, signal } = address;
  container.append(element("p", { role: "status" }, "Loading…"));
  try {
    /** @type {Gateway.CatalogList} */
    const { items, partitions } = await ask("GET", "/v1/catalogs");
    if (signal.aborted) return;
    container.replaceChildren(...comparison(items, partitions, query));
  } catch (error) {
    if (signal.aborted) return;
    const again = () => {
      container.replaceChildren();
      return showCatalogs(container, address);
    };
    container.replaceChildren(problemOf(error, again));
  }
}

/**
 * @param {Gateway.CatalogShown[]} items
 * @param {number | null} partitions
 * @param {URLSearchParams} query Which two versions are compared, and whether all lines are shown.
 */
function comparison(items, partitions, query) {
  const sorted = [...items].sort((one, other) =>
    one.effective_from.localeCompare(other.effective_from),
  );
  const find = (/** @type {string | null} */ version) =>
    items.find((catalog) => catalog.version === version);
  const right = find(query.get("right")) ?? sorted.at(-1);
  if (!right) return [element("p.empty", {}, "No catalog has been published.")];
  const left = find(query.get("left")) ?? sorted.at(-2) ?? right;
  const areAllShown = query.get("all") === "1" || left === right;
  const [before, after] = [linesOf(left), linesOf(right)];
  const names = [...new Map([...before, ...after]).keys()];
  const differing = names.filter((name) => before.get(name) !== after.get(name));
  const rows = (areAllShown ? names : differing).map((name) =>
    row(name, before.get(name), after.get(name), left === right),
  );
  const heads = [...new Set([left, right])].map((catalog) =>
    element("th", { scope: "col" }, headOf(catalog, partitions)),
  );
  const table = element(
    "table.catalogs",
    { "aria-label": "Two catalogs" },
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "What"), heads)),
    element("tbody", {}, rows),
  );
  const shown = [
    element("p.muted", { role: "status" }, differencesText(items.length, differing.length)),
    rows.length
      ? element("div.table", {}, table)
      : element("p.empty", {}, "The two versions are alike."),
  ];
  if (items.length === 1) return shown;
  return [choiceForm(sorted, left, right, areAllShown), ...shown];
}

/**
 * @param {Gateway.CatalogShown[]} sorted
 * @param {Gateway.CatalogShown} left
 * @param {Gateway.CatalogShown} right
 * @param {boolean} areAllShown
 */
function choiceForm(sorted, left, right, areAllShown) {
  /** @param {string} label @param {string} name @param {Gateway.CatalogShown} chosen */
  const choice = (label, name, chosen) =>
    element(
      "select",
      { id: name, name, "aria-label": label },
      sorted.map(({ version }) =>
        element("option", { value: version, selected: version === chosen.version }, version),
      ),
    );
  const lefts = choice("Version on the left", "left", left);
  const rights = choice("Version on the right", "right", right);
  const all = element("input", { type: "checkbox", id: "all", checked: areAllShown });
  const form = element(
    "form.fields",
    {},
    lefts,
    element("span.muted", {}, "and"),
    rights,
    element("label.check", { for: "all" }, all, "Also what is the same"),
  );
  form.addEventListener("change", () => {
    const chosen = { left: lefts.value, right: rights.value, all: all.checked ? "1" : "0" };
    location.hash = `#/catalogs?${new URLSearchParams(chosen)}`;
  });
  return form;
}

/**
 * @param {number} versions
 * @param {number} differences
 */
function differencesText(versions, differences) {
  if (versions === 1) return "There is one version.";
  return differences === 1 ? "They differ in one line." : `They differ in ${differences} lines.`;
}

/**
 * A version, the time from which it applies, and how many of the ledger's partitions know it.
 * @param {Gateway.CatalogShown} catalog
 * @param {number | null} partitions
 */
function headOf(catalog, partitions) {
  const known =
    partitions && catalog.adopted_by !== null
      ? `, known to ${catalog.adopted_by} of ${partitions} partitions`
      : "";
  return [
    `${catalog.version} `,
    catalog.is_in_force && badge("in force", "good"),
    element("p.muted.small", {}, "from ", time(catalog.effective_from), known),
  ];
}

/**
 * @param {string} name
 * @param {string | undefined} before
 * @param {string | undefined} after
 * @param {boolean} isAlone Whether there is one version, and so one column.
 */
function row(name, before, after, isAlone) {
  const change = changeOf(before, after);
  return element(
    "tr",
    { "data-change": change },
    element(
      "th",
      { scope: "row", "data-name": "What" },
      name,
      change && [" ", badge(change, TONES[change])],
    ),
    element("td", { "data-name": isAlone ? "Now" : "Left" }, before ?? "–"),
    !isAlone && element("td", { "data-name": "Right" }, after ?? "–"),
  );
}

/**
 * @param {string | undefined} before
 * @param {string | undefined} after
 * @returns {Change | null}
 */
export function changeOf(before, after) {
  if (before === after) return null;
  if (before === undefined) return "added";
  return after === undefined ? "removed" : "changed";
}

/**
 * A catalog as lines that can be compared: what is priced, and how.
 * @param {Gateway.CatalogShown} catalog
 */
export function linesOf(catalog) {
  const lines = new Map();
  for (const { name, allotment, price_cents: cents, renews, thresholds } of catalog.plans) {
    const cycle = renews ? "a month" : "once";
    const own = thresholds ? `, thresholds ${thresholdsText(thresholds)}` : "";
    lines.set(`Plan ${name}`, `${number(allotment)} credits ${cycle}, ${price(cents)}${own}`);
  }
  lines.set("Thresholds", thresholdsText(catalog.thresholds));
  lines.set("Unknown accounts", catalog.unknown_accounts === "refuse" ? "refused" : "on Free");
  for (const feature of catalog.features) {
    if (feature.rate) lines.set(feature.name, rateText(feature.rate));
    for (const model of feature.models ?? []) {
      lines.set(`${feature.name} · ${model.name}`, model.rate ? rateText(model.rate) : "–");
    }
  }
  return lines;
}

/** @param {string[]} thresholds Shares of 1. */
const thresholdsText = (thresholds) =>
  thresholds.map((threshold) => `${number(Number(threshold) * 100)} %`).join(", ") || "none";

/** @param {Gateway.RateShown} rate */
export function rateText({ credits, unit, per, rounding }) {
  const what = per && per !== "1" ? `for ${number(per)} ${unit}s` : `${articleOf(unit)} ${unit}`;
  const amount = credits === "1" ? "1 credit" : `${number(credits)} credits`;
  return `${amount} ${what}${rounding === "exact" ? ", exact" : ""}`;
}

/** @param {string} noun */
const articleOf = (noun) => (/^[aeio]/i.test(noun) ? "an" : "a");
