"""The fold: how an entry changes a state, and which parts it does not change."""

from __future__ import annotations

import pytest

from tests.notation import Partition
from usageledger.domain.account import AccountState
from usageledger.domain.chain import unseal
from usageledger.domain.encoding import decode_account, encode
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.evolve import evolve

STORY = [
    "2026-01-10T00:00 use genai_video/veo_3 id=g",
    "+1d grant 100 until=2026-03-05T00:00",
    "+1d grant 50",
    "2026-01-31T10:00 subscribe pro zone=Asia/Tokyo",
    "+1h use chat_action 20 on=-2h",
    "+1d use genai_video/veo_3 7 id=h",
    "+1s use genai_video/veo_3 7 id=h",
    "+1s use telepathy",
    "+1d change max",
    "+1d change pro",
    "+1d void h",
    "+1d void later",
    "2026-03-10T00:00 use chat_action 300",
    "+1d suspend fraud",
    "+1d thresholds 0.50 0.9",
    "+1d resume",
    "+1d suspend payment_failed",
    "+1d cancel",
    "2026-04-10T00:00 use chat_action 3",
]


def _played_story() -> Partition:
    partition = Partition()
    for line in STORY:
        partition.take(line)
    return partition


def test_the_fold_of_the_bytes_in_the_log_is_the_state() -> None:
    partition = _played_story()
    state: AccountState | None = None
    for sealed in partition.entries:
        read = unseal(sealed.value)
        assert read is not None
        state = evolve(state, read.entry)
    assert state == partition.state()
    assert encode(partition.state()) == encode(decode_account(encode(partition.state())))


def test_a_state_that_was_written_and_read_between_entries_ends_in_the_same_bytes() -> None:
    folded: AccountState | None = None
    for sealed in _played_story().entries:
        folded = evolve(None if folded is None else decode_account(encode(folded)), sealed.entry)
    assert folded is not None and encode(folded) == encode(_played_story().state())


@pytest.mark.parametrize("kind", ["duplicate", "refusal", "catalog_adopted", "skip"])
def test_entries_that_change_no_account_leave_the_state_as_it_was(kind: str) -> None:
    partition = _played_story()
    entry = LedgerEntry(kind=kind, appended_at=partition.now, account="a")  # type: ignore[arg-type]
    assert evolve(partition.state(), entry) is partition.state()
    assert evolve(None, entry) is None


def test_by_feature_sums_to_what_was_used() -> None:
    state = _played_story().state()
    for period in (state.period, state.previous):
        assert period is not None and sum(period.by_feature.values()) == period.used


def test_an_ended_period_keeps_when_it_really_ended() -> None:
    partition = Partition()
    for line in ["2026-01-31T10:00 subscribe pro", "+5d cancel now"]:
        partition.take(line)
    state = partition.state()
    assert state.previous is not None and state.previous.end == state.period.start == partition.now
