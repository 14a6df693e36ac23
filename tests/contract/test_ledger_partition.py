"""One contract for every ledger partition: memory and a real broker behave alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from usageledger.ledger.records import (
    GroupTooLarge,
    KeyedValue,
    LedgerError,
    LedgerPartition,
    Record,
    RecordsMissing,
    Superseded,
)
from usageledger.log.kafka_ledger import KafkaLedgerPartition, LedgerSettings
from usageledger.log.memory import MemoryLedgerPartition, MemoryLog
from usageledger.log.topics import Topics

GROUP_BYTES_MAX = 200_000
CLAIM = KeyedValue(None, b"claim")
OTHERS_CLAIM = KeyedValue(None, b"another's claim")

Handle = MemoryLedgerPartition | KafkaLedgerPartition
MakeHandle = Callable[[], Handle]


def memory_handles(_: pytest.FixtureRequest) -> Iterator[MakeHandle]:
    log = MemoryLog()
    yield lambda: MemoryLedgerPartition(log, group_bytes_max=GROUP_BYTES_MAX)


def kafka_handles(request: pytest.FixtureRequest) -> Iterator[MakeHandle]:
    kafka, prefix = request.getfixturevalue("kafka"), request.getfixturevalue("prefix")
    settings = LedgerSettings(
        batch_bytes=20_000,
        group_bytes_max=GROUP_BYTES_MAX,
        no_progress_timeout_s=2.0,
        read_chunk_records=300,
    )
    yield lambda: KafkaLedgerPartition(
        kafka=kafka, topic=Topics(prefix).ledger, partition=1, settings=settings
    )


@pytest.fixture(params=[memory_handles, kafka_handles], ids=["memory", "kafka"])
def new_handle(request: pytest.FixtureRequest) -> Iterator[MakeHandle]:
    """Makes handles of several workers on the same ledger partition, which is new."""
    yield from request.param(request)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 45))


@asynccontextmanager
async def workers(new_handle: MakeHandle, count: int) -> AsyncIterator[list[Handle]]:
    handles = [new_handle() for _ in range(count)]
    try:
        yield handles
    finally:
        for handle in handles:
            await handle.close()


async def all_records(ledger: LedgerPartition, start: int = 0) -> list[Record]:
    return [
        record async for chunk in ledger.read(start, await ledger.end_offset()) for record in chunk
    ]


async def values(ledger: LedgerPartition, start: int = 0) -> list[bytes | None]:
    return [record.value for record in await all_records(ledger, start)]


def entries(*names: str) -> list[KeyedValue]:
    return [KeyedValue(b"acct", name.encode()) for name in names]


def test_a_partition_begins_empty(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            assert (await ledger.start_offset(), await ledger.end_offset()) == (0, 0)
            assert await values(ledger) == []

    run(work())


def test_a_claim_is_appended_at_the_end_and_the_first_entry_after_it(
    new_handle: MakeHandle,
) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            assert await ledger.claim(CLAIM) == 0
            await ledger.append(1, [entries("a", "b"), entries("c")])
            await ledger.append(4, [entries("d")])
            assert await values(ledger) == [b"claim", b"a", b"b", b"c", b"d"]
            assert await ledger.end_offset() == 5

    run(work())


def test_keys_values_and_rising_timestamps_come_back(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            await ledger.append(
                1,
                [
                    [KeyedValue(b"acct_1", b"\x00\xff"), KeyedValue("kö".encode(), b"{}")],
                    [KeyedValue(None, b"adopted")],
                ],
            )
            records = await all_records(ledger)
            assert [(record.offset, record.key, record.value) for record in records] == [
                (0, None, b"claim"),
                (1, b"acct_1", b"\x00\xff"),
                (2, "kö".encode(), b"{}"),
                (3, None, b"adopted"),
            ]
            times = [record.timestamp_ms for record in records]
            assert times == sorted(times)

    run(work())


def test_many_groups_are_appended_in_order_and_without_a_gap(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            groups = [
                entries(*(f"{group}.{n} {'x' * 300}" for n in range(group % 4)))
                for group in range(1_000)
            ]
            await ledger.append(1, groups)
            expected = [entry.value for group in groups for entry in group]
            assert await values(ledger, 1) == expected

    run(work())


def test_a_read_ends_before_its_stop_and_begins_at_its_start(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            await ledger.append(1, [entries("a", "b", "c", "d")])
            assert [record.value async for chunk in ledger.read(2, 4) for record in chunk] == [
                b"b",
                b"c",
            ]
            assert [chunk async for chunk in ledger.read(3, 3)] == []
            assert [record.value async for chunk in ledger.read(4, 5) for record in chunk] == [b"d"]

    run(work())


def test_a_read_beyond_the_end_yields_the_records_there_and_then_raises(
    new_handle: MakeHandle,
) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            with pytest.raises(LedgerError, match="no record came at offset 1 of 3"):
                async for _ in ledger.read(0, 3):
                    pass

    run(work())


def test_a_read_from_a_missing_offset_says_that_records_are_missing(
    new_handle: MakeHandle,
) -> None:
    """A ledger was truncated or created again, so the view knows of more than the log holds.

    The reader must not jump to the records that are there.
    """

    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            with pytest.raises(RecordsMissing) as caught:
                async for _ in ledger.read(7, 9):
                    pass
            assert not caught.value.retriable

    run(work())


def test_after_anothers_claim_an_append_is_superseded_and_off_its_offset(
    new_handle: MakeHandle,
) -> None:
    async def work() -> None:
        async with workers(new_handle, 2) as (first, second):
            await first.claim(CLAIM)
            await first.append(1, [entries("a")])
            assert await second.claim(OTHERS_CLAIM) == 2
            with pytest.raises(Superseded):
                await first.append(2, [entries("late")])
            assert await values(second) == [b"claim", b"a", b"another's claim", b"late"]

    run(work())


def test_a_superseded_worker_appends_nothing_before_it_claims_again(
    new_handle: MakeHandle,
) -> None:
    async def work() -> None:
        async with workers(new_handle, 2) as (first, second):
            await first.claim(CLAIM)
            await second.claim(OTHERS_CLAIM)
            with pytest.raises(Superseded):
                await first.append(1, [entries("late")])
            with pytest.raises(LedgerError, match="before a claim"):
                await first.append(3, [entries("later")])
            assert await first.claim(CLAIM) == 3
            await first.append(4, [entries("valid")])
            assert await values(second, 3) == [b"claim", b"valid"]

    run(work())


def test_nothing_is_appended_before_the_first_claim(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            with pytest.raises(LedgerError, match="before a claim"):
                await ledger.append(0, [entries("a")])
            assert await ledger.end_offset() == 0

    run(work())


def test_a_group_too_large_for_a_batch_is_refused_and_the_claim_stays_valid(
    new_handle: MakeHandle,
) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            huge = [KeyedValue(b"acct", bytes(GROUP_BYTES_MAX // 10)) for _ in range(10)]
            with pytest.raises(GroupTooLarge, match="in one record batch") as caught:
                await ledger.append(1, [entries("a"), huge])
            assert not caught.value.retriable
            assert await ledger.end_offset() == 1
            await ledger.append(1, [entries("a")])
            assert await values(ledger, 1) == [b"a"]

    run(work())


def test_a_group_that_just_fits_into_a_batch_is_appended_whole(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            entry_bytes = (GROUP_BYTES_MAX - 61) // 10 - 36 - 4
            large = [KeyedValue(b"acct", bytes(entry_bytes)) for _ in range(10)]
            await ledger.append(1, [entries("a"), large, entries("b")])
            assert [len(value or b"") for value in await values(ledger, 1)] == [
                1,
                *[entry_bytes] * 10,
                1,
            ]

    run(work())


def test_appends_that_overlap_in_time_keep_their_order(new_handle: MakeHandle) -> None:
    async def work() -> None:
        async with workers(new_handle, 1) as (ledger,):
            await ledger.claim(CLAIM)
            await asyncio.gather(*(ledger.append(1 + n, [entries(str(n))]) for n in range(50)))
            assert await values(ledger, 1) == [str(n).encode() for n in range(50)]

    run(work())


def test_the_log_shows_which_entries_of_two_racing_workers_are_valid(
    new_handle: MakeHandle,
) -> None:
    """Whatever the interleaving, the valid entries are one owner's at a time, without a gap."""

    async def work() -> None:
        async def contend(ledger: Handle, name: str) -> None:
            for _ in range(3):
                offset = await ledger.claim(KeyedValue(None, b"claim"))
                try:
                    for _ in range(5):
                        offset += 1
                        await ledger.append(
                            offset, [[KeyedValue(name.encode(), str(offset).encode())]]
                        )
                except Superseded:
                    continue

        async with workers(new_handle, 2) as (first, second):
            await asyncio.gather(contend(first, "first"), contend(second, "second"))
            owner = None
            for record in await all_records(first):
                if record.value == b"claim":
                    owner = None
                elif record.value == str(record.offset).encode():
                    assert owner in (None, record.key)
                    owner = record.key

    run(work())
