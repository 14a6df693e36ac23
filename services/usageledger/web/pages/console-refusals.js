/** Refusals: what was refused and why, and how to resend it once the cause is removed. */

import { element } from "../usage-meter-elements.js";
import { ask } from "./asking.js";
import { accountLink } from "./console-accounts.js";
import { actionButton } from "./console-actions.js";
import { appendList, badge } from "./console-lists.js";
import { time } from "./console-words.js";

const REASONS = [
  "wrong_partition",
  "empty_record",
  "record_too_large",
  "not_json",
  "not_a_cloudevent",
  "unknown_type",
  "invalid_event",
  "wrong_key",
  "malformed_records",
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
  "too_many_open_grants",
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
/** @type {Record<string, string>} */
const RESULTS = {
  sent: "sent",
  not_found: "not found",
  already_resolved: "resolved already",
  unavailable: "not sent, Kafka has not answered",
  gone: "no longer in its topic",
  not_sendable: "a catalog is published anew instead",
};

/**
 * @param {HTMLElement} container
 * @param {Address} address
 */
export function showRefusals(container, { query, signal }) {
  const filters = filterForm(query);
  const chosen = new Set();
  const report = element("p.small", { role: "status" });

  /** @param {string[]} entries */
  async function resend(entries) {
    /** @type {Gateway.ResendReport} */
    const { items } = await ask("POST", "/v1/refusals/resend", { entries });
    report.textContent = items.map(resultText).join(", ");
    chosen.clear();
    resendChosen.hidden = true;
    await table.reload();
  }

  const resendChosen = actionButton("Send the chosen again", () => resend([...chosen]));
  resendChosen.hidden = true;

  /** @param {Gateway.RefusalShown} refusal */
  function choice({ entry }) {
    const box = element("input", { type: "checkbox", "aria-label": `Choose ${entry}` });
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(entry);
      else chosen.delete(entry);
      resendChosen.hidden = chosen.size === 0;
    });
    return box;
  }

  container.append(filters, element("div.fields.choosing", {}, resendChosen, report));
  const table = appendList(container, {
    path: "/v1/refusals",
    query: chosenFilters(query),
    label: "Refusals",
    empty: "Nothing was refused.",
    signal,
    columns: columns(choice, ({ entry }) => resend([entry])),
  });
}

/**
 * @param {(refusal: Gateway.RefusalShown) => HTMLElement} choice
 * @param {(refusal: Gateway.RefusalShown) => Promise<void>} resend
 * @returns {import("./console-lists.js").Column<Gateway.RefusalShown>[]}
 */
function columns(choice, resend) {
  return [
    { name: "Choose", value: (refusal) => (refusal.is_resolved ? "" : choice(refusal)) },
    { name: "Account", value: ({ account }) => account && accountLink(account) },
    {
      name: "Reason",
      value: ({ reason, detail, is_resolved: isResolved }) => [
        badge(reason.replaceAll("_", " "), isResolved ? "" : "warning"),
        element("p.muted.small", {}, detail ?? ""),
      ],
    },
    {
      name: "Event",
      value: ({ event }) =>
        event && [element("code", {}, event.source), element("p.muted.small.id", {}, event.id)],
    },
    {
      name: "Use",
      value: ({ feature, model }) => [feature, model].filter(Boolean).join(" · ") || "–",
    },
    {
      name: "Refused",
      value: ({ appended_at: at, place, entry }) => [
        time(at),
        element("p.muted.small", {}, place ?? entry),
      ],
    },
    {
      name: "Again",
      value: (refusal) =>
        refusal.is_resolved
          ? badge("resolved", "good")
          : actionButton("Send again", () => resend(refusal)),
    },
  ];
}

/** @param {URLSearchParams} query */
function chosenFilters(query) {
  return { reason: query.get("reason") ?? "", resolved: query.get("resolved") ?? "false" };
}

/** @param {URLSearchParams} query */
function filterForm(query) {
  const filters = chosenFilters(query);
  const reason = element(
    "select",
    { id: "reason", name: "reason" },
    element("option", { value: "" }, "Every reason"),
    REASONS.map((name) =>
      element(
        "option",
        { value: name, selected: filters.reason === name },
        name.replaceAll("_", " "),
      ),
    ),
  );
  const which = element(
    "select",
    { id: "which", name: "resolved" },
    [
      ["false", "Open"],
      ["true", "Resolved"],
      ["", "All"],
    ].map(([value, name]) =>
      element("option", { value, selected: filters.resolved === value }, name),
    ),
  );
  const form = element(
    "form.fields",
    {},
    element("label", { for: "reason" }, "Reason"),
    reason,
    element("label", { for: "which" }, "Which"),
    which,
  );
  form.addEventListener("change", () => {
    const now = { reason: reason.value, resolved: which.value };
    location.hash = `#/refusals?${new URLSearchParams(now)}`;
  });
  return form;
}

/** @param {Gateway.Resent} resent */
const resultText = ({ entry, result }) => `${entry}: ${RESULTS[result] ?? result}`;
