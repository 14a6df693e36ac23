"""Suspending blocks an account, however many credits it has left. Resuming frees it if credits
remain. Meanwhile its periods renew and its credits change as always.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition, ledger, play
from usageledger.domain.account import due_at
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.balance import balance_at
from usageledger.domain.encoding import decode_account, encode
from usageledger.domain.entry import LedgerEntry, SuspensionChange
from usageledger.ledger.limit_address import read_limit_event
from usageledger.ledger.limit_events import limit_events
from usageledger.sdk.limits.limit_event import parse_limit_event


def _last(*lines: str) -> LedgerEntry:
    partition = Partition()
    for line in lines:
        sealed = partition.take(line)
    return sealed[-1].entry


@ledger
def test_suspending_blocks_an_account_that_has_credits_and_resuming_frees_it() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1d               suspend payment_failed  => suspension payment_failed 200+0-0=200 !reached
    +1d               resume                  => resumption 200+0-0=200 !cleared
    """


@ledger
def test_suspending_and_resuming_an_account_without_credits_announces_nothing() -> None:
    """
    2026-01-31T10:00  use chat_action 200
        => account_opened free 200+0-0=200 ; usage 200 200+0-200=0 !80% !reached
    +1d               suspend fraud        => suspension fraud 200+0-200=0
    +1d               resume               => resumption 200+0-200=0
    +1d               grant 5              => grant 200+5-200=5 !cleared
    """


@ledger
def test_running_out_while_suspended_is_not_announced_a_second_time() -> None:
    """
    2026-01-31T10:00  use chat_action 100
        => account_opened free 200+0-0=200 ; usage 100 200+0-100=100
    +1d               suspend fraud        => suspension fraud 200+0-100=100 !reached
    +1d               use chat_action 100  => usage 100 200+0-200=0 !80%
    +1d               resume               => resumption 200+0-200=0
    +1d               grant 1              => grant 200+1-200=1 !cleared
    """


@ledger
def test_no_renewal_grant_upgrade_or_void_frees_a_suspended_account() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               use chat_action 200 id=g  => usage 200 200+0-200=0 !80% !reached
    +1s               suspend payment_failed    => suspension payment_failed 200+0-200=0
    +1s               grant 10                  => grant 200+10-200=10
    +1s               change max                => plan_change max 500+10-200=310
    +1s               void g                    => void -200 500+10-0=510
    2026-02-28T10:00  use chat_action           => renewal max 500+10-0=510 ; usage 1 500+10-1=509
    +1s               resume                    => resumption 500+10-1=509 !cleared
    """


@ledger
def test_a_suspension_outlasts_renewals_plan_changes_and_cancellations() -> None:
    """
    2026-01-31T10:00  subscribe pro
        => account_opened free 200+0-0=200 ; plan_change pro 200+0-0=200
    +1s               suspend fraud        => suspension fraud 200+0-0=200 !reached
    2026-02-28T10:00  change scale
        => renewal pro 200+0-0=200 ; plan_change scale 1400+0-0=1400
    +1s               cancel now           => plan_change free 200+0-0=200
    +1s               subscribe max        => plan_change max 500+0-0=500
    +1s               suspend again        => refused already_suspended
    """


@ledger
def test_a_suspended_account_that_falls_back_to_an_empty_free_is_not_announced() -> None:
    """
    2026-01-31T10:00  use chat_action 200
        => account_opened free 200+0-0=200 ; usage 200 200+0-200=0 !80% !reached
    +1s               subscribe pro        => plan_change pro 200+0-0=200 !cleared
    +1s               cancel               => plan_change pro->free 200+0-0=200
    +1s               suspend fraud        => suspension fraud 200+0-0=200 !reached
    2026-03-10T00:00  resume               => renewal free 0+0-0=0 ; resumption 0+0-0=0
    """


@ledger
def test_an_account_is_suspended_once_and_resumed_once() -> None:
    """
    2026-01-31T10:00  use chat_action       => account_opened free 200+0-0=200 ; usage 1 200+0-1=199
    +1s               resume                => refused not_suspended
    +1s               suspend fraud id=s    => suspension fraud 200+0-1=199 !reached
    +1s               suspend fraud id=s    => duplicate
    +1s               suspend other id=s    => refused id_reused_with_different_content
    +1s               suspend other         => refused already_suspended
    +1s               resume id=r           => resumption 200+0-1=199 !cleared
    +1s               resume id=r           => duplicate
    +1s               resume                => refused not_suspended
    """


@ledger
def test_an_account_not_yet_known_can_be_suspended() -> None:
    """It is opened on Free first, as by a grant.

    2026-01-31T10:00  suspend fraud
        => account_opened free 200+0-0=200 ; suspension fraud 200+0-0=200 !reached
    +1s               use chat_action  => usage 1 200+0-1=199
    2026-01-31T11:00  resume account=b => refused not_suspended
    """


def test_a_suspension_opens_no_account_if_unknown_ones_are_refused() -> None:
    (catalog,) = SHIPPED
    play(
        "2026-01-31T10:00  suspend fraud  => refused unknown_account",
        AdoptedCatalogs((replace(catalog, unknown_accounts="refuse"),)),
    )


def test_a_suspension_says_why_and_changes_no_figure() -> None:
    entry = _last(
        "2026-01-31T10:00 subscribe pro", "+1d use chat_action 30", "+1d suspend payment_failed"
    )
    assert entry.kind == "suspension" and entry.suspension == SuspensionChange(
        reason="payment_failed"
    )
    assert entry.credits == 0 and entry.before == entry.after is not None
    (crossing,) = entry.crossings
    assert (crossing.type, crossing.reason, crossing.action, crossing.upgrade) == (
        "limit.reached",
        "suspended",
        "block",
        None,
    )
    assert crossing.suspended == "payment_failed"


def test_a_suspended_accounts_limit_event_gives_the_reason_and_no_upgrade() -> None:
    entry = _last(
        "2026-01-31T10:00 subscribe pro", "+1d suspend payment_failed", "+1d use chat_action 160"
    )
    (message,) = limit_events(entry)
    raw, _ = read_limit_event(message.value)
    assert raw["data"]["suspension"] == {"reason": "payment_failed"}
    event = parse_limit_event(raw)
    assert (event.kind, event.action, event.upgrade, event.suspension_reason) == (
        "threshold",
        None,
        None,
        "payment_failed",
    )


def test_a_limit_event_of_an_account_that_is_not_suspended_says_so() -> None:
    for lines in (["+1d suspend fraud", "+1d resume"], ["+1d use chat_action 200"]):
        message = limit_events(_last("2026-01-31T10:00 subscribe pro", *lines))[-1]
        raw, _ = read_limit_event(message.value)
        assert (
            raw["data"]["suspension"] is None and parse_limit_event(raw).suspension_reason is None
        )


def test_a_limit_event_from_before_there_were_suspensions_is_read() -> None:
    (message,) = limit_events(_last("2026-01-31T10:00 subscribe pro", "+1d suspend fraud"))
    raw, _ = read_limit_event(message.value)
    del raw["data"]["suspension"]
    assert parse_limit_event(raw).suspension_reason is None


@pytest.mark.parametrize(
    ("use", "due"), [(100, None), (200, datetime(2026, 2, 28, 10, tzinfo=UTC))]
)
def test_a_suspended_account_is_due_only_if_it_has_no_credits_either(
    use: int, due: datetime | None
) -> None:
    partition = Partition()
    for line in [
        "2026-01-31T10:00 subscribe pro",
        f"+1s use chat_action {use}",
        "+1s suspend fraud",
    ]:
        partition.take(line)
    assert partition.state().is_blocked
    assert due_at(partition.state(), free_plan="free") == partition.book.due.get("a") == due


def test_a_balance_says_why_its_account_is_blocked() -> None:
    partition = Partition()
    partition.take("2026-01-31T10:00 suspend payment_failed")
    balance = balance_at("a", partition.state(), partition.now, SHIPPED)
    assert (balance.is_blocked, balance.suspended, balance.remaining) == (
        True,
        "payment_failed",
        200_000_000,
    )
    partition.take("+1s resume")
    balance = balance_at("a", partition.state(), partition.now, SHIPPED)
    assert (balance.is_blocked, balance.suspended) == (False, None)


def test_a_state_from_before_suspensions_keeps_its_bytes() -> None:
    blob = (
        b'{"plan":"pro","period":{"number":1,"start":"2026-01-31T10:00:00Z",'
        b'"end":"2026-02-28T10:00:00Z","plan":"pro","allotment":200000000},'
        b'"free_left":200000000,"time_zone":"UTC","anchor":"2026-01-31T10:00:00Z"}'
    )
    state = decode_account(blob)
    assert (state.suspended, state.thresholds, state.is_blocked) == (None, None, False)
    assert encode(state) == blob
