"""The ledger's entries as the command line shows them."""

from __future__ import annotations

import json

from tests.worlds.decided_partition import DecidedPartition
from usageledger.operations.ledger_entries import newest, readable_entry


def test_every_amount_of_an_entry_is_shown_in_credits() -> None:
    ledger = DecidedPartition()
    ledger.send_account_event("account.subscribed", "s1", plan="pro")
    ledger.send_account_event(
        "credits.granted", "g1", credits="12.5", reason="sorry", expires_at="2025-02-10T00:00:00Z"
    )
    (used,) = ledger.use("u1", quantity="6")
    shown = readable_entry(used)
    assert shown["credits"] == "192"
    assert shown["rate"]["credits"] == "32"
    assert shown["before"] == {
        "allotment": "200",
        "granted": "12.5",
        "used": "0",
        "remaining": "212.5",
    }
    assert shown["after"] == {
        "allotment": "200",
        "granted": "12.5",
        "used": "192",
        "remaining": "20.5",
    }
    assert (
        shown["crossings"][0]["figures"]["used"],
        shown["crossings"][0]["upgrade"]["allotment"],
    ) == ("192", "500")
    assert (shown["hash"], shown["offset"], shown["input"]["offset"]) == (
        used.hash,
        used.entry.offset,
        0,
    )
    json.dumps(shown)


def test_amounts_deep_in_a_change_of_plan_are_shown_in_credits() -> None:
    ledger = DecidedPartition()
    ledger.send_account_event("account.subscribed", "s1", plan="pro")
    ledger.send_account_event("credits.granted", "g1", credits="12.5", reason="sorry")
    ledger.use("u1", quantity="7")
    (cancelled,) = ledger.send_account_event("account.cancelled", "c1", effective="now")
    change = readable_entry(cancelled)["plan_change"]
    assert change["settled"] == [["/s", "g1", "12.5"]]
    assert change["opens"]["allotment"] == "200"


def test_an_entry_that_charges_nothing_says_so() -> None:
    ledger = DecidedPartition()
    ledger.use("u1")
    (duplicate,) = ledger.use("u1")
    assert readable_entry(duplicate)["credits"] == "0"


def test_the_newest_entries_come_in_the_ledgers_order() -> None:
    ledger = DecidedPartition()
    for id in ("u1", "u2", "u3"):
        ledger.use(id)
    assert [sealed.entry.offset for sealed in newest(reversed(ledger.entries), 2)] == [2, 3]
