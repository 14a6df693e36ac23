/** Partitions: whether the ledger keeps up. Asked again every few seconds. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { problemOf } from "./console-actions.js";
import { badge } from "./console-lists.js";
import { number } from "./console-words.js";

const ASK_EVERY_MS = 5_000;
/** @type {Record<string, "good" | "danger">} */
const TONES = { "running/idle": "good", stopped: "danger", no_owner: "danger" };
const COLUMNS = ["Partition", "State", "Undecided", "Detail"];

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showPartitions(container, { signal }) {
  const services = element("dl.tiles");
  const rows = element("tbody");
  const heads = COLUMNS.map((name) => element("th", { scope: "col" }, name));
  const table = element(
    "table",
    { "aria-label": "Partitions", hidden: true },
    element("thead", {}, element("tr", {}, heads)),
    rows,
  );
  const state = element("div.state", {}, "Loading…");
  container.append(services, element("div.table", {}, table), state);

  async function refresh() {
    try {
      /** @type {Gateway.LagReport} */
      const report = await ask("GET", "/v1/lag");
      if (signal.aborted) return;
      services.replaceChildren(...report.services.map(serviceTile));
      rows.replaceChildren(...report.partitions.map(partitionRow));
      table.hidden = false;
      state.replaceChildren();
    } catch (error) {
      if (!signal.aborted) state.replaceChildren(problemOf(error, refresh));
    }
  }

  const timer = setInterval(refresh, ASK_EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  refresh();
}

/** @param {Gateway.ServiceLag} service */
function serviceTile({ name, records }) {
  const unit = records === 1 ? " record behind" : " records behind";
  const lag = element("dd", {}, number(records), element("span.muted.small", {}, unit));
  return element("div", {}, element("dt", {}, name), lag);
}

/** @param {Gateway.PartitionShown} partition */
function partitionRow({ partition, state, undecided, detail, worker, needs_somebody: isUrgent }) {
  const tone = isUrgent ? "danger" : (TONES[state] ?? "warning");
  return element(
    "tr",
    {},
    element("td", { "data-name": "Partition" }, partition),
    element("td", { "data-name": "State" }, badge(state.replaceAll("_", " "), tone)),
    element("td", { "data-name": "Undecided" }, number(undecided)),
    element(
      "td",
      { "data-name": "Detail" },
      detail || "–",
      worker && element("p.muted.small", {}, worker),
    ),
  );
}
