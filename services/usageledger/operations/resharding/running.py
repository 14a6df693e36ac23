"""Filling a new ledger from an old one, and comparing the two."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, groupby, islice

from usageledger.counters.holding import Hold
from usageledger.domain.account import AccountState
from usageledger.domain.encoding import decode_account
from usageledger.ledger.adoption import adopted_catalogs
from usageledger.ledger.partitioning import partition_of
from usageledger.ledger.records import Record
from usageledger.operations.event_file import Input, OutgoingRecord
from usageledger.operations.record_sender import Sender, is_too_large
from usageledger.operations.resharding.comparing import (
    Difference,
    account_differences,
    hold_differences,
)
from usageledger.operations.resharding.deciding import (
    LedgerPorts,
    NewLedger,
    ReadPorts,
    deciding,
)
from usageledger.operations.resharding.history import (
    CopiedInput,
    OldPartition,
    in_order,
    records_between,
    uncovered_inputs,
)

RECORDS_PER_ROUND = 20_000
"""How many inputs are sent before the new ledger has to decide them. It bounds the memory."""

Progress = Callable[[int], None]
"""Called with how many inputs have been sent and decided."""


@dataclass(slots=True)
class ReshardReport:
    """The outcome. ``copied`` are the inputs that the old ledger had decided.

    ``left_out`` counts the old ledger's records that are not copied, by why. ``uncovered`` are the
    inputs that the old ledger had not decided; they are sent only if there is no difference.
    """

    old_partitions: int
    new_partitions: int
    copied: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    catalogs: int = 0
    accounts: int = 0
    holds: int = 0
    differences: list[Difference] = field(default_factory=list)
    uncovered: int = 0
    too_large: int = 0
    """Uncovered records that no input topic accepts."""


async def fill_and_compare(
    old: ReadPorts,
    new: LedgerPorts,
    *,
    old_partitions: int,
    new_partitions: int,
    input_counts: Mapping[Input, int],
    now: Callable[[], datetime],
    on_progress: Progress = lambda done: None,
) -> ReshardReport:
    """Fill the empty ledger ``new``, which is in import mode, and compare it with ``old``.

    ``input_counts`` says how many partitions each input topic of the old ledger has now. Raises
    OperatorError, LogUnreadable, ViewError, KafkaError.
    """
    report = ReshardReport(old_partitions, new_partitions)
    partitions = [
        OldPartition(old.reader, old.topics, partition) for partition in range(old_partitions)
    ]
    topic = old.topics.catalog
    catalogs = list(records_between(old.reader, topic, 0, 0, old.reader.end_offset(topic, 0)))
    async with deciding(new, new_partitions) as ledger:
        with Sender(new.connect) as sender:
            filling = _Filling(ledger, sender, catalogs, on_progress)
            await filling.copy(in_order(partitions))
            await filling.adopt_all()
            report.copied, report.catalogs = filling.sent, len(catalogs)
            for partition in partitions:
                report.left_out += partition.left_out
            await _compare(report, old, new, partitions, catalogs, now())
            if not report.differences:
                starts = _starts(partitions, input_counts)
                await filling.send_uncovered(old, starts)
                report.uncovered = filling.sent - report.copied
                report.too_large = len(sender.report.not_sent)
    return report


def _starts(
    partitions: Sequence[OldPartition], input_counts: Mapping[Input, int]
) -> dict[tuple[Input, int], int]:
    """Of each partition of each input, the offset behind what the old ledger has decided."""
    return {
        (input_, number): partitions[number].head.next_of(input_) if number < len(partitions) else 0
        for input_, partition_count in input_counts.items()
        for number in range(partition_count)
    }


class _Filling:
    """Sends inputs to the new ledger, a round at a time, and has each round decided."""

    def __init__(
        self,
        ledger: NewLedger,
        sender: Sender,
        catalogs: Sequence[Record],
        on_progress: Progress,
    ) -> None:
        self.sent = 0
        self._ledger = ledger
        self._sender = sender
        self._catalogs = catalogs
        self._published = 0
        self._on_progress = on_progress
        self._clocks_ms = [0] * ledger.partition_count
        self._lines = count(1)

    async def copy(self, items: Iterator[CopiedInput]) -> None:
        """Send inputs in their order; before each, the catalogs that it was decided with."""
        for catalogs, group in groupby(items, key=lambda item: item.catalogs):
            await self._adopt_below(catalogs)
            await self._send_all(group)

    async def adopt_all(self) -> None:
        """Publish the catalogs that the old ledger has not adopted yet."""
        if self._catalogs:
            await self._adopt_below(self._catalogs[-1].offset + 1)

    async def send_uncovered(self, old: ReadPorts, starts: Mapping[tuple[Input, int], int]) -> None:
        """Send what the old ledger has not decided, and what arrives there meanwhile."""
        while True:
            items, ends = await asyncio.to_thread(uncovered_inputs, old.reader, old.topics, starts)
            before = self.sent
            await self._send_all(items)
            if self.sent == before:
                return
            starts = ends

    async def _adopt_below(self, offset: int) -> None:
        values = [
            record.value or b""
            for record in self._catalogs[self._published :]
            if record.offset < offset
        ]
        self._published += len(values)
        if values:
            await self._ledger.adopt(values)

    async def _send_all(self, items: Iterator[CopiedInput]) -> None:
        while chunk := await asyncio.to_thread(lambda: list(islice(items, RECORDS_PER_ROUND))):
            dated = [self._outgoing(item) for item in chunk]
            await asyncio.to_thread(self._send_and_flush, dated)
            self.sent += len(dated)
            order: dict[int, list[Input]] = defaultdict(list)
            for record in dated:
                if not is_too_large(record):
                    order[record.partition].append(record.input)
            await self._ledger.decide(order)
            self._on_progress(self.sent)

    def _send_and_flush(self, dated: Sequence[OutgoingRecord]) -> None:
        # Topic by topic: `NewLedger.decide` gets the order of the two.
        for record in sorted(dated, key=lambda each: each.input):
            self._sender.send(record)
        self._sender.flush()

    def _outgoing(self, item: CopiedInput) -> OutgoingRecord:
        """The record of the new ledger: dated as it was decided, and never before the last one."""
        count = self._ledger.partition_count
        partition = 0 if item.key is None else partition_of(item.key, count)
        at_ms = self._clocks_ms[partition] = max(self._clocks_ms[partition], item.appended_ms)
        return OutgoingRecord(
            line=next(self._lines),
            input=item.input,
            type=item.input,
            key=item.key,
            partition=partition,
            value=item.value,
            timestamp_ms=at_ms,
        )


async def _compare(
    report: ReshardReport,
    old: ReadPorts,
    new: LedgerPorts,
    partitions: Sequence[OldPartition],
    catalogs: Sequence[Record],
    now: datetime,
) -> None:
    """Compare every account, copy the open holds, and compare these too."""
    before: dict[str, AccountState] = {}
    for partition in partitions:
        before |= partition.states
    stored: dict[str, bytes] = {}
    for number in range(report.new_partitions):
        stored |= (await new.view(number).snapshot()).accounts
    after = {account: decode_account(state) for account, state in stored.items()}
    report.accounts = len(before)
    at = max([now, *(partition.head.clock for partition in partitions)])
    report.differences += account_differences(before, after, at, adopted_catalogs(catalogs))
    if report.differences:
        return
    holds: dict[tuple[str, str], Hold] = {}
    for number in range(len(partitions)):
        holds |= await old.open_holds(number)
    for (account, id_), hold in holds.items():
        number = partition_of(account.encode(), report.new_partitions)
        await new.place_hold(number, account, id_, hold, stored.get(account))
    copied: dict[tuple[str, str], Hold] = {}
    for number in range(report.new_partitions):
        copied |= await new.open_holds(number)
    report.holds = len(holds)
    report.differences += hold_differences(holds, copied)
