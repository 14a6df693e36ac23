"""The first figures that the usage meter shows, from the account's state alone."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.notation import SHIPPED, Partition
from usageledger.accounts.queries import AccountBalance
from usageledger.domain.balance import balance_at
from usageledger.gateway.figures import Block, figures

START = "2026-01-03T09:00"
NOON = datetime(2026, 1, 13, 12, tzinfo=UTC)


def account(*lines: str, at: datetime = NOON, held: int = 0, open_holds: int = 0) -> AccountBalance:
    partition = Partition()
    for line in lines:
        partition.take(line)
    balance = balance_at("a", partition.state(), at, SHIPPED, held=held, open_holds=open_holds)
    return AccountBalance(balance, None, partition.book.head.next_offset)


def test_figures_are_the_equation_of_the_period_as_decimal_strings() -> None:
    shown = figures(account(f"{START} subscribe max", "+1h grant 20", "+1h use genai_video/veo_3"))
    assert (shown.allotment, shown.granted, shown.used, shown.held) == ("500", "20", "32", "0")
    assert (shown.remaining, shown.available) == ("488", "488")
    assert shown.by_feature == {"genai_video": "32"}
    assert (shown.plan.id, shown.plan.name, shown.period.number) == ("max", "Max", 1)
    assert shown.blocked is None


@pytest.mark.parametrize(
    ("used", "share"),
    [(0, "0.0000"), (1, "0.0050"), (199, "0.9950"), (200, "1.0000"), (250, "1.2500")],
)
def test_the_share_used_is_of_all_there_is_and_may_exceed_it(used: int, share: str) -> None:
    assert (
        figures(account(f"{START} subscribe pro", f"+1h use chat_action {used}")).share_used
        == share
    )


def test_the_share_used_is_rounded_down_so_that_no_limit_shows_before_it_is_reached() -> None:
    shown = figures(
        account(f"{START} subscribe scale_4x", "+1h grant 100000", "+1h use chat_action 105599")
    )
    assert (shown.remaining, shown.share_used) == ("1", "0.9999")


def test_a_blocked_account_is_shown_with_what_would_free_it() -> None:
    now = account(f"{START} subscribe pro", "+1h use chat_action 200")
    since = datetime(2026, 1, 3, 10, tzinfo=UTC)
    shown = figures(now, Block(since, "usage")).blocked
    assert shown is not None
    assert (shown.reason, shown.since, shown.suspension) == ("usage", since, None)
    assert shown.upgrade is not None and (shown.upgrade.plan, shown.upgrade.allotment) == (
        "max",
        "500",
    )
    assert shown.resets_at == datetime(2026, 2, 3, 9, tzinfo=UTC)
    assert figures(now).blocked is not None, "the counters alone say that an account is blocked"


def test_figures_are_those_after_a_renewal_that_is_due() -> None:
    lines = (f"{START} subscribe pro", "+1h use chat_action 200")
    shown = figures(account(*lines, at=datetime(2026, 2, 3, 9, tzinfo=UTC)))
    assert (shown.used, shown.remaining, shown.blocked) == ("0", "200", None)


def test_an_account_that_the_ledger_does_not_know_is_on_an_untouched_free() -> None:
    shown = figures(AccountBalance(balance_at("new", None, NOON, SHIPPED), None, 0))
    assert (shown.plan.id, shown.allotment, shown.used, shown.period.end) == (
        "free",
        "200",
        "0",
        None,
    )


def test_the_top_plan_has_no_upgrade_to_offer() -> None:
    assert figures(account(f"{START} subscribe scale_4x")).upgrade is None


def test_what_open_holds_have_reserved_is_not_available() -> None:
    shown = figures(
        account(f"{START} subscribe pro", "+1h use chat_action 20", held=32_500_000, open_holds=2)
    )
    assert (shown.remaining, shown.held, shown.available) == ("180", "32.5", "147.5")
    assert (shown.holds.open, shown.holds.credits) == (2, "32.5")
