"""A balance: the one projection of an account's state, in micro-credits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest

from tests.notation import SHIPPED, Partition
from usageledger.domain.balance import Balance, balance_at

CREDIT = 1_000_000
START = "2026-01-03T09:00"
NOON = datetime(2026, 1, 13, 12, tzinfo=UTC)


def balance(*lines: str, at: datetime = NOON, held: int = 0) -> Balance:
    partition = Partition()
    for line in lines:
        partition.take(line)
    return balance_at("a", partition.state(), at, SHIPPED, held=held)


def test_remaining_and_available_follow_from_the_other_figures() -> None:
    lines = (f"{START} subscribe max", "+1h grant 20", "+1h use genai_video/veo_3")
    found = balance(*lines, held=14 * CREDIT)
    assert (found.allotment, found.granted, found.used) == (500 * CREDIT, 20 * CREDIT, 32 * CREDIT)
    assert found.remaining == found.allotment + found.granted - found.used == 488 * CREDIT
    assert found.available == found.remaining - found.held == 474 * CREDIT
    assert found.by_feature == {"genai_video": 32 * CREDIT}


def test_a_grant_is_drawn_from_after_the_allotment_and_shows_what_it_has_left() -> None:
    found = balance(f"{START} subscribe pro", "+1h grant 20", "+1h use chat_action 205")
    assert [(each.grant.credits, each.left) for each in found.grants] == [
        (20 * CREDIT, 15 * CREDIT)
    ]


@pytest.mark.parametrize(
    ("used", "share"),
    [(0, Fraction(0)), (1, Fraction(1, 200)), (200, Fraction(1)), (250, Fraction(5, 4))],
)
def test_the_share_used_is_exact_and_1_once_nothing_remains(used: int, share: Fraction) -> None:
    found = balance(f"{START} subscribe pro", f"+1h use chat_action {used}")
    assert found.share_used == share
    assert (found.share_used >= 1) == (found.remaining <= 0)


def test_a_suspension_is_named_before_used_up_credits_and_no_upgrade_helps() -> None:
    lines = (f"{START} subscribe pro", "+1h use chat_action 200")
    blocked, suspended = balance(*lines), balance(*lines, "+1h suspend fraud")
    assert (blocked.is_blocked, blocked.block_reason) == (True, "usage")
    assert blocked.upgrade is not None and blocked.upgrade.plan == "max"
    assert (suspended.block_reason, suspended.suspended, suspended.upgrade) == (
        "suspended",
        "fraud",
        None,
    )
    assert balance(f"{START} subscribe pro").block_reason is None


def test_a_balance_has_the_renewals_that_are_due_by_its_time() -> None:
    lines = (f"{START} subscribe pro", "+1h use chat_action 200")
    ends = datetime(2026, 2, 3, 9, tzinfo=UTC)
    before, after = balance(*lines, at=ends - timedelta(seconds=1)), balance(*lines, at=ends)
    assert (before.resets_at, before.changes_at, before.remaining) == (ends, ends, 0)
    assert (after.period.start, after.remaining) == (ends, 200 * CREDIT)


def test_an_unknown_account_is_on_an_untouched_free() -> None:
    found = balance_at("new", None, NOON, SHIPPED)
    assert (found.is_known, found.plan.id, found.remaining, found.resets_at) == (
        False,
        "free",
        200 * CREDIT,
        None,
    )
