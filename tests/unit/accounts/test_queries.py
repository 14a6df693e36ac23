"""The queries behind answers about an account: their steps, in order, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest

from tests.notation import SHIPPED, Partition
from usageledger.accounts.queries import (
    ATTEMPTS_MAX,
    CatalogsUpTo,
    Clock,
    LedgerUntil,
    NoRate,
    PastState,
    Query,
    Step,
    balance_at_query,
    balance_query,
    check_query,
    find_hold_query,
    hold_query,
    quote_query,
    release_query,
    run,
    run_async,
)
from usageledger.counters.holding import PlaceHold
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import Position, StoredHead, ViewError
from usageledger.domain.checking import Use
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head
from usageledger.ledger.timestamps import milliseconds

T = TypeVar("T")

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
CLOCK = Clock(lambda: NOW)
ACTION = Use(feature="chat_action")


class Counters:
    """A view in memory with account ``a`` as the notation's ledger has left it.

    ``asked`` lists the steps that it has answered.
    """

    def __init__(self, *lines: str) -> None:
        self.view = MemoryView(now_ms=lambda: int(NOW.timestamp() * 1_000))
        self.asked: list[Step] = []
        self.before_placing: Callable[[], None] = lambda: None
        self._set_clock(NOW)
        if lines:
            self.become(*lines)

    def become(self, *lines: str) -> None:
        partition = Partition()
        for line in lines:
            partition.take(line)
        self._set_clock(partition.now)
        self.view.stored_accounts["a"] = encode(partition.state())

    def _set_clock(self, clock: datetime) -> None:
        head = Head(ledger="ledger", next_offset=7, clock=clock, catalog_next=3)
        self.view.stored_head = StoredHead(
            Position(7, "hash"), encode(head), int(NOW.timestamp() * 1_000)
        )

    def answer(self, step: Step) -> Any:
        self.asked.append(step)
        if isinstance(step, CatalogsUpTo):
            return SHIPPED
        if isinstance(step, PlaceHold):
            self.before_placing()
        return self.view.ask(step)

    def result(self, query: Query[T]) -> T:
        return run(query, self.answer)


def test_an_account_is_read_by_the_catalogs_that_its_partition_has_adopted() -> None:
    counters = Counters("2026-11-20T10:00 subscribe pro", "+1s use chat_action 20")
    found = counters.result(balance_query("a", CLOCK))
    assert [step.before for step in counters.asked if isinstance(step, CatalogsUpTo)] == [3]
    balance = found.balance
    assert (
        balance.is_known,
        balance.remaining,
        balance.at,
        found.ledger_next,
        found.verified_at,
    ) == (
        True,
        180_000_000,
        NOW,
        7,
        None,
    )


def test_counters_that_are_not_there_make_no_account_an_untouched_free() -> None:
    """A Redis that was emptied has no heads until a processor rebuilds its views.

    Meanwhile a suspended account could have held Free's 200 credits.
    """
    counters = Counters()
    counters.view.stored_head = None
    with pytest.raises(ViewError, match="not there") as refused:
        counters.result(balance_query("a", CLOCK))
    assert refused.value.retriable


def test_now_is_never_before_the_ledgers_time() -> None:
    """A slow clock would otherwise show an account as it was before its last entries."""
    counters = Counters("2026-12-01T10:00 use chat_action")
    assert counters.result(balance_query("a", CLOCK)).balance.at == datetime(
        2026, 12, 1, 10, tzinfo=UTC
    )


def test_while_history_is_imported_now_is_the_ledgers_time() -> None:
    """Otherwise last year's subscription would have been renewed a dozen times.

    The use of its imported month would then not count any more.
    """
    counters = Counters("2025-03-01T10:00 subscribe pro", "+1d use chat_action 200")
    assert counters.result(check_query("a", ACTION, CLOCK)).check.allowed
    importing = Clock(lambda: NOW, lambda: True)
    found = counters.result(check_query("a", ACTION, importing))
    assert (found.check.allowed, found.account.balance.at) == (
        False,
        datetime(2025, 3, 2, 10, tzinfo=UTC),
    )


def test_counters_that_were_not_verified_lately_are_as_of_when_they_were() -> None:
    counters = Counters("2026-11-20T10:00 use chat_action")
    late = Clock(lambda: NOW + timedelta(minutes=1))
    assert counters.result(balance_query("a", late)).verified_at == NOW


@pytest.mark.parametrize("query", ["check", "hold"])
@pytest.mark.parametrize(("unverified_ms", "is_answered"), [(60_000, True), (60_001, False)])
def test_nothing_is_decided_by_counters_that_were_not_verified_for_a_minute(
    query: str, unverified_ms: int, is_answered: bool
) -> None:
    """Redis was read-only, so no use was counted, and each check allowed another one."""
    counters = Counters("2026-11-20T10:00 use chat_action")
    counters.view.now_ms = lambda: milliseconds(NOW) + unverified_ms

    def decide(clock: Clock) -> object:
        if query == "check":
            return counters.result(check_query("a", ACTION, clock))
        return counters.result(hold_query("a", "h", ACTION, 1_000, clock))

    if is_answered:
        assert decide(CLOCK)
    else:
        with pytest.raises(ViewError, match="last verified 60 s ago") as refused:
            decide(CLOCK)
        assert refused.value.retriable
    # A balance says as of when it is, and an import decides by its own time.
    assert counters.result(balance_query("a", CLOCK))
    assert decide(Clock(lambda: NOW, lambda: True))


@pytest.mark.parametrize("spoilt", ["head", "account"])
def test_counters_of_a_newer_release_are_not_an_outage(spoilt: str) -> None:
    counters = Counters("2026-11-20T10:00 use chat_action")
    if spoilt == "head":
        counters.view.stored_head = StoredHead(Position(7, "hash"), b"not ours", 0)
    else:
        counters.view.stored_accounts["a"] = b"{}"
    with pytest.raises(ViewError, match="upgrade") as refused:
        counters.result(balance_query("a", CLOCK))
    assert not refused.value.retriable


@pytest.mark.parametrize(
    ("use", "subject"),
    [
        (Use(feature="telepathy"), "feature 'telepathy'"),
        (Use(feature="genai_video", model="veo_99"), "model 'veo_99' of feature 'genai_video'"),
        (Use(feature="genai_video"), "feature 'genai_video' with no model named"),
    ],
)
def test_a_use_without_a_rate_is_named(use: Use, subject: str) -> None:
    for query in (
        check_query("a", use, CLOCK),
        hold_query("a", "job", use, 1_000, CLOCK),
        quote_query([ACTION, use], CLOCK),
    ):
        counters = Counters()
        with pytest.raises(NoRate, match=subject):
            counters.result(query)
        assert counters.view.holds == {}


def test_a_hold_is_tried_again_on_an_account_that_has_changed_meanwhile() -> None:
    """A use is charged between reading the account and placing the hold.

    The credits left after that use decide.
    """
    counters = Counters("2026-11-20T10:00 use chat_action 100")
    charges = iter([lambda: counters.become("2026-11-20T10:00 use chat_action 195")])
    counters.before_placing = lambda: next(charges, lambda: None)()
    refused = counters.result(
        hold_query("a", "job", Use(feature="chat_action", quantity=Decimal(10)), 1_000, CLOCK)
    )
    assert (refused.refusal, refused.hold) == ("insufficient_credits", None)
    assert (refused.checked.check.remaining, refused.checked.account.balance.used) == (
        5_000_000,
        195_000_000,
    )
    assert refused.checked.check.upgrade is not None


def test_a_hold_on_an_account_that_changes_each_time_ends_in_a_retriable_error() -> None:
    counters = Counters("2026-11-20T10:00 use chat_action 1")
    uses = iter(range(2, 1_000))
    counters.before_placing = lambda: counters.become(
        f"2026-11-20T10:00 use chat_action {next(uses)}"
    )
    with pytest.raises(ViewError, match="changed during each of 20") as failed:
        counters.result(hold_query("a", "job", ACTION, 1_000, CLOCK))
    assert failed.value.retriable
    assert sum(isinstance(step, PlaceHold) for step in counters.asked) == ATTEMPTS_MAX


def test_a_hold_does_not_count_against_itself() -> None:
    """A hold that is repeated when no credits are left is answered and not refused."""
    counters = Counters("2026-11-20T10:00 use chat_action 190")
    use = Use(feature="chat_action", quantity=Decimal(10))
    first, again = (counters.result(hold_query("a", "job", use, 60_000, CLOCK)) for _ in range(2))
    assert (first.refusal, first.hold) == (again.refusal, again.hold) == (None, first.hold)
    assert (again.checked.check.held, again.checked.check.available) == (10_000_000, 0)


def test_a_use_that_costs_more_than_can_be_held_is_refused_without_a_hold_call() -> None:
    counters = Counters()
    use = Use(feature="genai_video", model="veo_3", quantity=Decimal(1_000_000_000))
    placed = counters.result(hold_query("a", "job", use, 60_000, CLOCK))
    assert placed.refusal == "insufficient_credits"
    assert not any(isinstance(step, PlaceHold) for step in counters.asked)


def test_a_hold_is_found_open_and_after_its_release_found_released() -> None:
    counters = Counters()
    assert counters.result(find_hold_query("a", "job")) is None
    counters.result(hold_query("a", "job", ACTION, 60_000, CLOCK))
    found = counters.result(find_hold_query("a", "job"))
    assert found is not None
    assert found.state == "open"
    assert (
        counters.result(release_query("a", "job", ()))
        == counters.result(find_hold_query("a", "job"))
        == found._replace(state="released")
    )


def test_an_asyncio_caller_runs_the_same_steps() -> None:
    waiting, looping = (
        Counters("2026-11-20T10:00 use chat_action"),
        Counters("2026-11-20T10:00 use chat_action"),
    )

    async def answer(step: Step) -> Any:
        return looping.answer(step)

    answers = (
        waiting.result(check_query("a", ACTION, CLOCK)),
        asyncio.run(run_async(check_query("a", ACTION, CLOCK), answer)),
    )
    assert answers[0] == answers[1]
    assert waiting.asked == looping.asked


def test_a_balance_before_the_ledgers_time_is_folded_from_the_ledger_without_holds() -> None:
    counters = Counters("2026-11-20T10:00 use chat_action 20")
    counters.result(hold_query("a", "job", ACTION, 60_000, CLOCK))
    earlier, later = Partition(), NOW + timedelta(days=1)
    earlier.take("2026-11-20T10:00 use chat_action 5")

    def answer(step: Step | LedgerUntil) -> Any:
        if isinstance(step, LedgerUntil):
            return PastState(earlier.state(), 1)
        return counters.answer(step)

    past = run(balance_at_query("a", earlier.now - timedelta(seconds=1), CLOCK), answer).balance
    future = run(balance_at_query("a", later, CLOCK), answer).balance
    assert (past.used, past.open_holds) == (5_000_000, 0)
    assert (future.used, future.open_holds, future.at) == (20_000_000, 0, later)
    assert [step.before for step in counters.asked if isinstance(step, CatalogsUpTo)][1:] == [1, 3]
