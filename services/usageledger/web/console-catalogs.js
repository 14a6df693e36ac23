/** Catalogs: two versions side by side, with what differs marked. */

import { ask } from "./asking.js";
import { badge, problemOf } from "./console-lists.js";
import { number, price, time } from "./console-words.js";
import { element } from "./elements.js";

export async function catalogs(place, { query, signal }) {
  place.append(element("p", { role: "status" }, "Loading…"));
  try {
    const { items, partitions: count } = await ask("GET", "/v1/catalogs");
    if (signal.aborted) return;
    place.replaceChildren(...(items.length ? compared(items, count, query) : [element("p.empty", {}, "No catalog has been published.")]));
  } catch (error) {
    if (!signal.aborted)
      place.replaceChildren(
        problemOf(error, () => {
          place.replaceChildren();
          catalogs(place, { query, signal });
        }),
      );
  }
}

function compared(items, count, query) {
  const newest = [...items].sort((one, other) => one.effective_from.localeCompare(other.effective_from));
  const find = (version) => items.find((catalog) => catalog.version === version);
  const right = find(query.get("right")) ?? newest.at(-1);
  const left = find(query.get("left")) ?? newest.at(-2) ?? right;
  const onlyDifferences = query.get("all") !== "1" && left !== right;
  const choice = (name, chosen) =>
    element(
      "select",
      { id: name, name, "aria-label": name === "left" ? "Version on the left" : "Version on the right" },
      newest.map(({ version }) => element("option", { value: version, selected: version === chosen.version }, version)),
    );
  const all = element("input", { type: "checkbox", id: "all", checked: !onlyDifferences });
  const form = element(
    "form.fields",
    {},
    choice("left", left),
    element("span.muted", {}, "and"),
    choice("right", right),
    element("label.check", { for: "all" }, all, "Also what is the same"),
  );
  form.addEventListener("change", () => {
    const chosen = { left: form.elements.left.value, right: form.elements.right.value, all: all.checked ? "1" : "0" };
    location.hash = `#/catalogs?${new URLSearchParams(chosen)}`;
  });
  const before = linesOf(left);
  const after = linesOf(right);
  const names = [...new Map([...before, ...after]).keys()];
  const shown = names.filter((name) => !onlyDifferences || before.get(name) !== after.get(name));
  const rows = shown.map((name) => row(name, before.get(name), after.get(name), left === right));
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "What"),
    [...new Set([left, right])].map((catalog) => element("th", { scope: "col" }, headOf(catalog, count))),
  );
  const table = element("table.catalogs", { "aria-label": "Two catalogs" }, element("thead", {}, head), element("tbody", {}, rows));
  const differing = names.filter((name) => before.get(name) !== after.get(name)).length;
  const told =
    items.length === 1 ? "There is one version." : differing === 1 ? "They differ in one line." : `They differ in ${differing} lines.`;
  return [
    items.length > 1 && form,
    element("p.muted", { role: "status" }, told),
    shown.length ? element("div.table", {}, table) : element("p.empty", {}, "The two say the same."),
  ].filter(Boolean);
}

/** A version, since when it counts, and how many of the ledger's partitions know it. */
function headOf(catalog, count) {
  const adopted = count && catalog.adopted_by !== null ? `, known to ${catalog.adopted_by} of ${count} partitions` : "";
  const since = element("p.muted.small", {}, "from ", time(catalog.effective_from), adopted);
  return [catalog.version, " ", catalog.is_in_force && badge("in force", "good"), since];
}

function row(name, before, after, isAlone) {
  const kind = before === after ? null : before === undefined ? "added" : after === undefined ? "removed" : "changed";
  return element(
    "tr",
    { "data-change": kind },
    element(
      "th",
      { scope: "row", "data-name": "What" },
      name,
      kind && " ",
      kind && badge(kind, { added: "good", removed: "danger", changed: "warning" }[kind]),
    ),
    element("td", { "data-name": isAlone ? "Now" : "Left" }, before ?? "–"),
    !isAlone && element("td", { "data-name": "Right" }, after ?? "–"),
  );
}

/** A catalog as lines that can be compared: what is priced, and how. */
function linesOf(catalog) {
  const lines = new Map();
  for (const plan of catalog.plans) {
    const cycle = plan.renews ? "a month" : "once";
    const own = plan.thresholds ? `, thresholds ${thresholdsOf(plan)}` : "";
    lines.set(`Plan ${plan.name}`, `${number(plan.allotment)} credits ${cycle}, ${price(plan.price_cents)}${own}`);
  }
  lines.set("Thresholds", thresholdsOf(catalog));
  lines.set("Unknown accounts", catalog.unknown_accounts === "refuse" ? "refused" : "on Free");
  for (const feature of catalog.features) {
    if (feature.rate) lines.set(feature.name, rateOf(feature.rate));
    for (const model of feature.models ?? []) lines.set(`${feature.name} · ${model.name}`, model.rate ? rateOf(model.rate) : "–");
  }
  return lines;
}

const thresholdsOf = ({ thresholds }) => thresholds.map((threshold) => `${number(threshold * 100)} %`).join(", ") || "none";

function rateOf(rate) {
  const per = rate.per && rate.per !== "1" ? `${number(rate.per)} ${rate.unit}s` : rate.unit;
  const article = /^[aeio]/i.test(per) ? "an" : /^[0-9]/.test(per) ? "for" : "a";
  const credits = rate.credits === "1" ? "1 credit" : `${number(rate.credits)} credits`;
  return `${credits} ${article} ${per}${rate.rounding === "exact" ? ", exact" : ""}`;
}
