"""Replay: decides a ledger partition again, input by input, and compares every byte.

Pure: it is given the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from msgspec.structs import replace

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry
from usageledger.domain.claim import Claim, decode_claim, knows_rules_of
from usageledger.domain.entry import InputAddress, InputRun, LedgerEntry, Topic
from usageledger.domain.head import Head
from usageledger.domain.record_skip import SkippedPlace, decode_skip, place_of
from usageledger.ledger.decoded_input import DecodedInput, NotMalformed, malformed_run
from usageledger.ledger.decoding import Malformed
from usageledger.ledger.partition_book import PartitionBook, Undecidable, group_key
from usageledger.ledger.reader_rule import (
    NO_SKIPS,
    RecordStops,
    check_rules,
    kind_of_record,
    next_entry,
)
from usageledger.ledger.records import Record

ReadInput = Callable[[Topic, int], Record | None]
"""The first record of an input at or after an offset; None where there is none.

The offsets rise from call to call of one topic.
"""


ReadSkips = Callable[[int], frozenset[SkippedPlace]]
"""The records that skips beyond an offset of the partition name."""


class Difference(Exception):
    """Where the ledger first differs from what its inputs make of it, in words."""


@dataclass(slots=True)
class ReplayCounts:
    """The counts of a replay.

    ``inputs`` are records of the usage and the account topic. Amounts are micro-credits.
    """

    entries: int = 0
    inputs: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    credits: int = 0
    refused_inputs: int = 0
    duplicate_inputs: int = 0
    skipped_inputs: int = 0

    @property
    def accepted_inputs(self) -> int:
        """Inputs that were neither refused, nor duplicates, nor skipped by an operator."""
        return self.inputs - self.refused_inputs - self.duplicate_inputs - self.skipped_inputs

    def include(self, other: ReplayCounts) -> None:
        """Add another partition's."""
        self.entries += other.entries
        self.inputs += other.inputs
        self.by_kind += other.by_kind
        self.refused += other.refused
        self.credits += other.credits
        self.refused_inputs += other.refused_inputs
        self.duplicate_inputs += other.duplicate_inputs
        self.skipped_inputs += other.skipped_inputs

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry."""
        self.entries += 1
        self.by_kind[entry.kind] += 1
        self.credits += entry.credits
        if entry.kind == "refusal":
            self.refused.update({entry.reason or "": 1} if entry.run is None else entry.run.reasons)
        if entry.input is not None and entry.input.topic != "catalog":
            self.refused_inputs += entry.input_records if entry.kind == "refusal" else 0
            self.duplicate_inputs += entry.kind == "duplicate"
            self.skipped_inputs += entry.input_records if entry.kind == "skip" else 0


class PartitionReplay:
    """Replays one partition.

    After each of the `verified_entries`, ``book`` is what the view must be at that point.
    """

    def __init__(
        self,
        partition: int,
        partition_count: int,
        read_input: ReadInput,
        read_skips: ReadSkips = lambda _: NO_SKIPS,
    ) -> None:
        self.book = PartitionBook(partition, partition_count, Head(ledger=""), AdoptedCatalogs())
        self.counts = ReplayCounts()
        self.claims: list[Claim] = []
        self.invalid: list[SkippedPlace] = []
        """The records that are no entries, claims or skips, with those that were skipped."""
        self.skipped: set[SkippedPlace] = set()
        """The records of this partition and of its limit events that operators have skipped."""
        self._read_input = read_input
        self._read_skips = read_skips
        self._skipped: frozenset[SkippedPlace] = NO_SKIPS

    def verified_entries(self, records: Iterable[Record]) -> Iterator[SealedEntry]:
        """Yield each valid entry once it has been decided again to the same bytes.

        Raises Difference at the first entry that was not.
        """
        for _, group in groupby(self._valid_entries(records), key=group_key):
            yield from self._verified_group(list(group))

    def _valid_entries(self, records: Iterable[Record]) -> Iterator[SealedEntry]:
        partition, hash_ = self.book.partition, self.book.head.hash
        for record in records:
            try:
                sealed = self._entry_of(record, hash_)
            except RecordStops as stop:
                self._skipped |= self._read_skips(record.offset)
                if stop.place not in self._skipped:
                    raise Difference(str(stop)) from None
                sealed = None
            if sealed is not None:
                hash_ = sealed.hash
                yield sealed
            elif (claim := decode_claim(record.value)) is not None:
                if knows_rules_of(claim):
                    self.claims.append(claim)
            elif (skip := decode_skip(record.value)) is not None:
                self.skipped.add(skip.place)
            elif kind_of_record(record) == "invalid":
                place = place_of("ledger", partition, record.offset, record.value)
                self.invalid.append(place)

    def _entry_of(self, record: Record, hash_: str) -> SealedEntry | None:
        sealed = next_entry(record, self.book.partition, hash_, self._skipped)
        if sealed is None:
            check_rules(record, self.book.partition, self._skipped)
        return sealed

    def _verified_group(self, actual: list[SealedEntry]) -> Iterator[SealedEntry]:
        """Decide the entries of one input, or of one account that was due, and compare them."""
        first = actual[0].entry
        # Claims and the appends of superseded workers lie between entries. So the offset is the
        # log's, and everything else must follow from the inputs.
        self.book.head = replace(self.book.head, next_offset=first.offset)
        try:
            expected = self._expected(first.input, actual)
        except Undecidable as error:
            raise Difference(
                f"{self._at(first.offset)}: this audit's code fails on {error}"
            ) from error
        for expected_entry, actual_entry in zip(expected, actual, strict=False):
            if expected_entry.value != actual_entry.value:
                raise Difference(
                    f"{self._at(actual_entry.entry.offset)}: "
                    f"{_first_difference(expected_entry.entry, actual_entry.entry)}"
                )
        if len(expected) != len(actual):
            raise Difference(
                f"{self._at(first.offset)}: {len(actual)} entries for this input, decided again "
                f"it has {len(expected)}"
            )
        for sealed in actual:
            self.counts.add(sealed.entry)
            yield sealed

    def _expected(
        self, address: InputAddress | None, actual: list[SealedEntry]
    ) -> list[SealedEntry]:
        """The entries that must be there in place of these. ``address`` is None for a due account.

        Raises Difference, Undecidable.
        """
        first = actual[0].entry
        if address is None:
            due = self.book.due.get(first.account)
            if due is None or due > first.appended_at:
                raise Difference(
                    f"{self._at(first.offset)}: {first.kind} of {first.account!r}, which is not "
                    f"due at {first.appended_at}"
                )
            return self.book.decide_due(first.account, due)
        if first.kind == "skip" and first.run is not None:
            return self._expected_of_unread(address, first, first.run)
        records = self._next_inputs(address, first)
        if address.topic == "catalog":
            return self.book.adopt(records[-1])
        self.counts.inputs += len(records)
        item = self._decoded(address.topic, records, first)
        overdue = self.book.due.next()
        if overdue is not None and overdue[0] <= item.appended_at:
            raise Difference(
                f"{self._at(first.offset)}: account {overdue[1]!r} was due at {overdue[0]}, before "
                "this input, and has no entry for it"
            )
        if first.kind == "skip":
            # The reason is the operator's; the rest must follow from the input.
            return self.book.skip(
                address.topic, records[-1], reason=first.reason or "", detail=first.detail or ""
            )
        if isinstance(item.event, Malformed):
            # The detail is the parser's own wording, and decides nothing.
            item = item._replace(event=item.event._replace(detail=actual[-1].entry.detail or ""))
        return self.book.decide_input(item)

    def _expected_of_unread(
        self, address: InputAddress, first: LedgerEntry, run: InputRun
    ) -> list[SealedEntry]:
        """The skip of a batch that cannot be read. That it could not is the operator's word."""
        next_offset = self.book.head.next_of(address.topic)
        if run.first_offset != next_offset:
            raise Difference(
                f"{self._at(first.offset)}: skips {address.topic} from offset {run.first_offset} "
                f"on, but the next input is at offset {next_offset}"
            )
        self.counts.inputs += run.records
        return self.book.skip_unreadable(
            address.topic,
            range(run.first_offset, address.offset + 1),
            reason=first.reason or "",
            detail=first.detail or "",
        )

    def _next_inputs(self, address: InputAddress, first: LedgerEntry) -> list[Record]:
        """The record at the address, after the others of its run if the entry is of a run."""
        records: list[Record] = []
        next_offset = self.book.head.next_of(address.topic)
        for _ in range(first.input_records):
            record = self._read_input(address.topic, next_offset)
            if record is None:
                raise Difference(
                    f"{self._at(first.offset)}: decides on {_input_place(address)}, "
                    "which its topic does not hold"
                )
            records.append(record)
            next_offset = record.offset + 1
        if not records or records[-1].offset != address.offset:
            raise Difference(
                f"{self._at(first.offset)}: decides on {_input_place(address)}, "
                f"but the next input is at offset {next_offset - 1}"
            )
        return records

    def _decoded(self, topic: Topic, records: Sequence[Record], first: LedgerEntry) -> DecodedInput:
        items = self.book.decode_each(topic, records)
        if first.run is None:
            return items[0]
        try:
            return malformed_run(items)
        except NotMalformed as error:
            raise Difference(
                f"{self._at(first.offset)}: refuses malformed records, but {error}"
            ) from None

    def _at(self, offset: int) -> str:
        return f"ledger entry {self.book.partition}-{offset}"


def _input_place(address: InputAddress) -> str:
    return f"{address.topic} {address.partition}-{address.offset}"


def _first_difference(expected: LedgerEntry, actual: LedgerEntry) -> str:
    for name in LedgerEntry.__struct_fields__:
        expected_value, actual_value = getattr(expected, name), getattr(actual, name)
        if expected_value != actual_value:
            return f"{name} is {actual_value!r}, decided again it is {expected_value!r}"
    return "the same fields in other bytes"
