"""The words that `ledger show` has for an entry."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from tests.notation import Partition
from usageledger.cli.ledger import entry_summary
from usageledger.domain.entry import LedgerEntry, SuspensionChange

AT = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "fields", "summary"),
    [
        ("suspension", {"suspension": SuspensionChange(reason="payment_failed")}, "payment_failed"),
        ("resumption", {"suspension": SuspensionChange(note="invoice paid")}, "invoice paid"),
        (
            "suspension",
            {"suspension": SuspensionChange(reason="fraud", note="case 7")},
            "fraud: case 7",
        ),
        ("thresholds_set", {"thresholds": (Decimal("0.5"), Decimal("0.9"))}, "0.5, 0.9"),
        ("thresholds_set", {"thresholds": ()}, "none"),
        ("thresholds_set", {"thresholds": None}, "those of the plan"),
        ("skip", {"reason": "a fault"}, "a fault"),
        ("catalog_adopted", {}, "2026-11"),
    ],
)
def test_an_entry_is_summed_up_by_what_it_changes(
    kind: Any, fields: dict[str, Any], summary: str
) -> None:
    """Every entry has a catalog version. Only the adoption of a catalog is summed up by it."""
    entry = LedgerEntry(kind=kind, appended_at=AT, catalog_version="2026-11", **fields)
    assert entry_summary(entry) == summary


@pytest.mark.parametrize(
    ("used", "summary"),
    [("199", "chat_action × 1 (late)"), ("200", "chat_action × 1 (late, counts now)")],
)
def test_a_late_use_says_when_it_counts_in_the_current_period(used: str, summary: str) -> None:
    partition = Partition()
    partition.take(f"2026-02-01T00:00 open pro used={used}")
    assert entry_summary(partition.take("2026-03-01T01:00 use chat_action on=-2h")[-1].entry) == (
        summary
    )
