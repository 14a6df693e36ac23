/** Refusals: what was refused and why, and sending it again once the cause is mended. */

import { ask } from "./asking.js";
import { badge, doing, list } from "./console-lists.js";
import { time } from "./console-words.js";
import { element } from "./elements.js";

const REASONS = [
  "wrong_partition",
  "empty_record",
  "record_too_large",
  "not_json",
  "not_a_cloudevent",
  "unknown_type",
  "invalid_event",
  "wrong_key",
  "dated_in_the_future",
  "too_old",
  "id_reused_with_different_content",
  "unknown_account",
  "counted_before_opening",
  "already_voided",
  "period_closed",
  "unknown_feature",
  "unknown_model",
  "grant_already_expired",
  "quantity_out_of_range",
  "account_already_known",
  "unknown_plan",
  "plan_has_no_cycle",
  "unknown_time_zone",
  "already_subscribed",
  "not_subscribed",
  "already_suspended",
  "not_suspended",
];
const RESULTS = {
  sent: "sent",
  not_found: "not found",
  already_resolved: "resolved already",
  unavailable: "not sent, Kafka has not answered",
  gone: "no longer in its topic",
  not_sendable: "a catalog is published anew instead",
};

export function refusals(place, { query, signal }) {
  const reason = element(
    "select",
    { id: "reason", name: "reason" },
    element("option", { value: "" }, "Every reason"),
    REASONS.map((name) => element("option", { value: name, selected: query.get("reason") === name }, name.replaceAll("_", " "))),
  );
  const which = element(
    "select",
    { id: "which", name: "resolved" },
    [
      ["false", "Open"],
      ["true", "Resolved"],
      ["", "All"],
    ].map(([value, name]) => element("option", { value, selected: (query.get("resolved") ?? "false") === value }, name)),
  );
  const chosen = new Set();
  const said = element("p.small", { role: "status" });
  const filters = element(
    "form.fields",
    {},
    element("label", { for: "reason" }, "Reason"),
    reason,
    element("label", { for: "which" }, "Which"),
    which,
  );
  filters.addEventListener("change", () => {
    location.hash = `#/refusals?${new URLSearchParams({ reason: reason.value, resolved: which.value })}`;
  });

  async function resend(entries) {
    const { items } = await ask("POST", "/v1/refusals/resend", { entries });
    said.textContent = items.map(({ entry, result }) => `${entry}: ${RESULTS[result] ?? result}`).join(", ");
    chosen.clear();
    resendChosen.hidden = true;
    await table.reload();
  }

  const resendChosen = doing("Send the chosen again", () => resend([...chosen]));
  resendChosen.hidden = true;
  const choose = (item) =>
    element("input", {
      type: "checkbox",
      "aria-label": `Choose ${item.entry}`,
      change: ({ target }) => {
        if (target.checked) chosen.add(item.entry);
        else chosen.delete(item.entry);
        resendChosen.hidden = chosen.size === 0;
      },
    });
  place.append(filters, element("div.fields.choosing", {}, resendChosen, said));
  const table = list(place, {
    path: "/v1/refusals",
    query: { reason: reason.value, resolved: which.value },
    label: "Refusals",
    empty: "Nothing was refused.",
    signal,
    columns: [
      { name: "Choose", value: (item) => (item.is_resolved ? "" : choose(item)) },
      { name: "Account", value: ({ account }) => account && element("a", { href: `#/accounts/${encodeURIComponent(account)}` }, account) },
      {
        name: "Reason",
        value: (item) => [
          badge(item.reason.replaceAll("_", " "), item.is_resolved ? "" : "warning"),
          element("p.muted.small", {}, item.detail ?? ""),
        ],
      },
      { name: "Event", value: ({ event }) => (event ? [element("code", {}, event.source), element("p.muted.small.id", {}, event.id)] : "–") },
      { name: "Use", value: ({ feature, model }) => [feature, model].filter(Boolean).join(" · ") || "–" },
      { name: "Refused", value: ({ appended_at: at, place: where, entry }) => [time(at), element("p.muted.small", {}, where ?? entry)] },
      { name: "Again", value: (item) => (item.is_resolved ? badge("resolved", "good") : doing("Send again", () => resend([item.entry]))) },
    ],
  });
}
