"""Deciding a ledger partition again, input by input in the ledger's order, and comparing every
byte. Pure: it is given the records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from msgspec.structs import replace

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at
from usageledger.domain.claim import Claim, decode_claim, knows_rules_of
from usageledger.domain.entry import InputAddress, LedgerEntry, Topic
from usageledger.domain.head import Head
from usageledger.ledger.decoding import Malformed
from usageledger.ledger.partition_book import PartitionBook, Undecidable, group_key
from usageledger.ledger.records import Record

ReadInput = Callable[[Topic, int], Record | None]
"""Gives the next record of an input at or after an offset; asked in rising order for each topic.

None where there is none.
"""


class Difference(Exception):
    """The first place where the ledger is not what its inputs make of it."""


@dataclass(slots=True)
class ReplayCounts:
    """What a replay has seen.

    ``inputs`` counts records of the usage and the account topic; amounts are micro-credits.
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
            self.refused[entry.reason or ""] += 1
        if entry.input is not None and entry.input.topic != "catalog":
            self.refused_inputs += entry.kind == "refusal"
            self.duplicate_inputs += entry.kind == "duplicate"
            self.skipped_inputs += entry.kind == "skip"


class PartitionReplay:
    """Replays one partition.

    After each `verified` entry, ``book`` is what the view has to be at that point.
    """

    def __init__(self, partition: int, partition_count: int, read_input: ReadInput) -> None:
        self.book = PartitionBook(partition, partition_count, Head(ledger=""), AdoptedCatalogs())
        self.counts = ReplayCounts()
        self.claims: list[Claim] = []
        self._read_input = read_input

    def verified(self, records: Iterable[Record]) -> Iterator[SealedEntry]:
        """Yield each valid entry once it has been decided again to the same bytes.

        Raises Difference at the first that has not.
        """
        for _, group in groupby(self._valid(records), key=group_key):
            yield from self._verified_group(list(group))

    def _valid(self, records: Iterable[Record]) -> Iterator[SealedEntry]:
        for record in records:
            try:
                sealed = entry_at(record.offset, record.value)
            except NotAnEntry as error:
                raise Difference(f"{self._at(record.offset)}: {error}") from None
            if sealed is not None:
                yield sealed
            elif (claim := decode_claim(record.value)) is not None:
                self._note_claim(claim, record.offset)

    def _note_claim(self, claim: Claim, offset: int) -> None:
        if not knows_rules_of(claim):
            raise Difference(
                f"{self._at(offset)}: claimed under rules newer than this audit's ({claim.decide}, "
                f"tzdata {claim.tzdata}): upgrade it"
            )
        self.claims.append(claim)

    def _verified_group(self, written: list[SealedEntry]) -> Iterator[SealedEntry]:
        """All entries of one input, or of one account that was due, decided again."""
        first = written[0].entry
        if first.partition != self.book.partition:
            raise Difference(
                f"{self._at(first.offset)}: the entry names partition {first.partition}"
            )
        # Between entries lie claims and what superseded workers appended: the offset is the log's,
        # the rest must follow from the inputs.
        self.book.head = _moved(self.book.head, first.offset)
        try:
            decided = self._decided(first.input, written)
        except Undecidable as error:
            raise Difference(
                f"{self._at(first.offset)}: this audit's code fails on {error}"
            ) from error
        for again, there in zip(decided, written, strict=False):
            if again.value != there.value:
                raise Difference(
                    f"{self._at(there.entry.offset)}: {_first_difference(again.entry, there.entry)}"
                )
        if len(decided) != len(written):
            raise Difference(
                f"{self._at(first.offset)}: {len(written)} entries for this input, decided again "
                f"it has {len(decided)}"
            )
        for sealed in written:
            self.counts.add(sealed.entry)
            yield sealed

    def _decided(
        self, address: InputAddress | None, written: list[SealedEntry]
    ) -> list[SealedEntry]:
        first = written[0].entry
        if address is None:
            due = self.book.due.get(first.account)
            if due is None or due > first.appended_at:
                raise Difference(
                    f"{self._at(first.offset)}: {first.kind} of {first.account!r}, which is not "
                    f"due at {first.appended_at}"
                )
            return self.book.decide_due(first.account, due)
        record = self._next_input(address, first)
        if address.topic == "catalog":
            return self.book.adopt(record)
        self.counts.inputs += 1
        (item,) = self.book.decode(address.topic, [record])
        overdue = self.book.due.next()
        if overdue is not None and overdue[0] <= item.appended_at:
            raise Difference(
                f"{self._at(first.offset)}: account {overdue[1]!r} was due at {overdue[0]}, before "
                "this input, and has no entry for it"
            )
        if (
            first.kind == "skip"
        ):  # why is the operator's to say; that it charges nothing and where it stands, the input's
            return self.book.skip(
                address.topic, record, reason=first.reason or "", detail=first.detail or ""
            )
        if isinstance(
            item.event, Malformed
        ):  # the detail is a parser's wording, for people; it decides nothing
            item = item._replace(event=item.event._replace(detail=written[-1].entry.detail or ""))
        return self.book.decide_input(item)

    def _next_input(self, address: InputAddress, first: LedgerEntry) -> Record:
        record = self._read_input(address.topic, self.book.head.next_of(address.topic))
        if record is None:
            raise Difference(
                f"{self._at(first.offset)}: decides on {_place(address)}, which the topic does not "
                "hold"
            )
        if record.offset != address.offset:
            raise Difference(
                f"{self._at(first.offset)}: decides on {_place(address)}, but the next input is at "
                f"offset {record.offset}"
            )
        return record

    def _at(self, offset: int) -> str:
        return f"ledger entry {self.book.partition}-{offset}"


def _moved(head: Head, next_offset: int) -> Head:
    return replace(head, next_offset=next_offset)


def _place(address: InputAddress) -> str:
    return f"{address.topic} {address.partition}-{address.offset}"


def _first_difference(again: LedgerEntry, there: LedgerEntry) -> str:
    for name in LedgerEntry.__struct_fields__:
        if getattr(again, name) != getattr(there, name):
            return (
                f"{name} is {getattr(there, name)!r}, decided again it is {getattr(again, name)!r}"
            )
    return "the same fields in other bytes"
