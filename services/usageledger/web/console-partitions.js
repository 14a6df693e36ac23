/** Partitions: whether the ledger keeps up, looked at again every few seconds. */

import { ask } from "./asking.js";
import { badge, problemOf } from "./console-lists.js";
import { number } from "./console-words.js";
import { element } from "./elements.js";

const LOOK_EVERY_MS = 5_000;
const TONES = { "running/idle": "good", stopped: "danger", no_owner: "danger" };

export function partitions(place, { signal }) {
  const services = element("dl.tiles");
  const rows = element("tbody");
  const table = element(
    "table",
    { "aria-label": "Partitions", hidden: true },
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ["Partition", "State", "Undecided", "Detail"].map((name) => element("th", { scope: "col" }, name)),
      ),
    ),
    rows,
  );
  const state = element("div.state", {}, "Loading…");
  place.append(services, element("div.table", {}, table), state);

  async function look() {
    try {
      const { services: lags, partitions: found } = await ask("GET", "/v1/lag");
      if (signal.aborted) return;
      services.replaceChildren(
        ...lags.map(({ name, records }) =>
          element(
            "div",
            {},
            element("dt", {}, name),
            element("dd", {}, number(records), element("span.muted.small", {}, records === 1 ? " record behind" : " records behind")),
          ),
        ),
      );
      rows.replaceChildren(
        ...found.map((partition) =>
          element(
            "tr",
            {},
            element("td", { "data-name": "Partition" }, partition.partition),
            element(
              "td",
              { "data-name": "State" },
              badge(partition.state.replaceAll("_", " "), partition.needs_somebody ? "danger" : (TONES[partition.state] ?? "warning")),
            ),
            element("td", { "data-name": "Undecided" }, number(partition.undecided)),
            element(
              "td",
              { "data-name": "Detail" },
              [partition.detail || "–", partition.worker && element("p.muted.small", {}, partition.worker)].filter(Boolean),
            ),
          ),
        ),
      );
      table.hidden = false;
      state.replaceChildren();
    } catch (error) {
      if (!signal.aborted) state.replaceChildren(problemOf(error, look));
    }
  }

  const timer = setInterval(look, LOOK_EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  look();
}
