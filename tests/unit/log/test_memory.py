"""The faults of the in-memory ledger partition, and how groups are packed into batches."""

from __future__ import annotations

import asyncio

import pytest

from usageledger.ledger.records import (
    AppendOutcomeUnknown,
    GroupTooLarge,
    KeyedValue,
    LedgerError,
    RecordsMissing,
    Superseded,
)
from usageledger.log.memory import MemoryLedgerPartition, MemoryLog
from usageledger.log.packing import BATCH_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES, pack

CLAIM = KeyedValue(None, b"claim")
ENTRY = KeyedValue(b"acct", b"entry")


@pytest.mark.parametrize("appended", [True, False])
def test_a_lost_answer_says_unknown_whether_or_not_the_entries_landed(appended: bool) -> None:
    async def work() -> None:
        ledger = MemoryLedgerPartition()
        await ledger.claim(CLAIM)
        ledger.lose_next_answer(appended=appended)
        with pytest.raises(AppendOutcomeUnknown):
            await ledger.append(1, [[ENTRY]])
        assert ledger.log.end_offset == (2 if appended else 1)
        with pytest.raises(LedgerError, match="before a claim"):
            await ledger.append(ledger.log.end_offset, [[ENTRY]])

    asyncio.run(work())


def test_what_a_frozen_worker_sends_lands_after_the_claim_made_meanwhile() -> None:
    async def work() -> None:
        log = MemoryLog()
        frozen, other = MemoryLedgerPartition(log), MemoryLedgerPartition(log)
        await frozen.claim(CLAIM)
        frozen.freeze()
        appending = asyncio.create_task(frozen.append(1, [[ENTRY]]))
        await other.claim(CLAIM)
        frozen.thaw()
        with pytest.raises(Superseded):
            await appending
        assert [record.value for record in log.records] == [b"claim", b"claim", b"entry"]

    asyncio.run(work())


def test_records_that_retention_deleted_are_an_error_and_not_skipped() -> None:
    async def work() -> None:
        ledger = MemoryLedgerPartition()
        await ledger.claim(CLAIM)
        await ledger.append(1, [[ENTRY], [ENTRY]])
        ledger.log.truncate_before(2)
        assert (await ledger.start_offset(), await ledger.end_offset()) == (2, 3)
        with pytest.raises(RecordsMissing):
            async for _ in ledger.read(0, 3):
                pass

    asyncio.run(work())


def test_timestamps_never_fall_whatever_the_clock_says() -> None:
    times = iter([5, 3, 9])
    log = MemoryLog(clock_ms=lambda: next(times))
    for _ in range(3):
        log.append_as_another(ENTRY)
    assert [record.timestamp_ms for record in log.records] == [5, 5, 9]


def batch_sizes(*group_sizes: int, batch_records: int) -> list[int]:
    """Return the lengths of the batches that groups of one-byte records make.

    A batch has room for ``batch_records``.
    """
    groups = [[KeyedValue(None, b"x")] * size for size in group_sizes]
    room = batch_records * (RECORD_OVERHEAD_BYTES + 1) + BATCH_OVERHEAD_BYTES
    return [len(batch) for batch in pack(groups, batch_bytes=room, group_bytes_max=10 * room)]


def test_groups_share_a_batch_until_it_is_full_and_are_never_split() -> None:
    assert batch_sizes(2, 2, 2, batch_records=4) == [4, 2]
    assert batch_sizes(3, 2, 1, batch_records=4) == [3, 3]
    assert batch_sizes(4, 4, batch_records=4) == [4, 4]


def test_a_group_larger_than_the_usual_batch_has_one_of_its_own() -> None:
    assert batch_sizes(1, 9, 1, batch_records=4) == [1, 9, 1]


def test_groups_without_entries_take_no_batch() -> None:
    assert batch_sizes(0, 0, batch_records=4) == []
    assert batch_sizes(1, 0, 1, batch_records=4) == [2]


def test_a_group_at_the_largest_size_is_taken_and_one_byte_more_is_refused() -> None:
    fits = [KeyedValue(b"k", bytes(100 - BATCH_OVERHEAD_BYTES - RECORD_OVERHEAD_BYTES - 1))]
    assert len(pack([fits], batch_bytes=10, group_bytes_max=100)) == 1
    with pytest.raises(GroupTooLarge):
        pack([[KeyedValue(b"kk", fits[0].value)]], batch_bytes=10, group_bytes_max=100)
