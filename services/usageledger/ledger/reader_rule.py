"""The reader's rule: which records of ``ledger.entries`` are entries.

Every reader that goes through a partition uses it, so all come to the same decision:

- A record is an entry if three things hold. Its bytes are one. It is at the offset that it names.
  It names the hash of the entry before it.
- Bytes that are no entry, and an entry elsewhere, decide nothing. Reading goes on.
- An entry at its offset that does not continue the chain stops the reader. Either somebody forged
  it, or the log has lost the entry before it. Nobody can tell from the bytes, so an operator has
  to: a `domain.record_skip` further on says that it was forged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at, unseal
from usageledger.domain.claim import decode_claim, knows_rules_of
from usageledger.domain.record_skip import SkippedPlace, decode_skip, place_of
from usageledger.ledger.records import Record

NO_SKIPS: frozenset[SkippedPlace] = frozenset()

RecordKind = Literal["entry", "claim", "skip", "elsewhere", "invalid"]


class RecordStops(Exception):
    """A reader cannot go on beyond a record, unless a skip names its ``place``.

    The message says why and what to do.
    """

    def __init__(self, place: SkippedPlace, why: str) -> None:
        super().__init__(
            f"ledger record {place.partition}@{place.offset} {why}; or, if it was written by "
            f"nobody who may: {skip_command(place)}"
        )
        self.place = place


def skip_command(place: SkippedPlace) -> str:
    """The command that gets readers past a record."""
    return (
        f"usageledger processor skip {place.partition}@{place.offset} --topic {place.topic} "
        "--reason TEXT"
    )


def next_entry(
    record: Record, partition: int, hash_: str, skipped: Collection[SkippedPlace] = NO_SKIPS
) -> SealedEntry | None:
    """The entry that a record holds behind the entry with that hash; None if it decides nothing.

    Raises RecordStops for an entry that does not continue the chain and is not skipped.
    """
    sealed = entry_at(record.offset, record.value)
    if sealed is None:
        return None
    entry = sealed.entry
    if entry.previous_hash == hash_ and entry.partition == partition:
        return sealed
    place = place_of("ledger", partition, record.offset, record.value)
    if place in skipped:
        return None
    raise RecordStops(
        place,
        "is an entry that does not continue the hash chain: an entry before it is missing, or it "
        "is another ledger's. Run `usageledger audit verify` and restore the log",
    )


def check_rules(
    record: Record, partition: int, skipped: Collection[SkippedPlace] = NO_SKIPS
) -> None:
    """Return unless the record is a claim under rules that this code does not know.

    Raises RecordStops for one that is not skipped.
    """
    claim = decode_claim(record.value)
    if claim is None or knows_rules_of(claim):
        return
    place = place_of("ledger", partition, record.offset, record.value)
    if place not in skipped:
        raise RecordStops(
            place,
            f"is a claim by a worker with newer rules ({claim.decide}, tzdata {claim.tzdata}): "
            "upgrade this worker",
        )


BEFORE_FIRST_CLAIM_MAX = 1_000
"""How many records of strangers a partition may have before its first claim.

A topic that has more of them is taken for another one, and is not written to.
"""


def kind_of_record(record: Record) -> RecordKind:
    """The kind of a ledger record by itself, without the entries before it."""
    if decode_claim(record.value) is not None:
        return "claim"
    if decode_skip(record.value) is not None:
        return "skip"
    try:
        sealed = None if record.value is None else unseal(record.value)
    except NotAnEntry:
        return "invalid"
    if sealed is None:
        return "invalid"
    return "entry" if sealed.entry.offset == record.offset else "elsewhere"


class HeadSearch:
    """Whether a log's last entry is the one with a given hash.

    Feed it the records from the log's end backwards, chunk by chunk.
    """

    def __init__(self, hash_: str) -> None:
        self._hash = hash_
        self._is_found = False
        self._is_continued = False

    @property
    def is_over(self) -> bool:
        """Whether earlier records can no longer change the answer."""
        return self._is_found or self._is_continued

    def see(self, records: Iterable[Record]) -> None:
        """Look at some records."""
        for record in records:
            sealed = entry_at(record.offset, record.value)
            if sealed is not None:
                self._is_found |= sealed.hash == self._hash
                self._is_continued |= sealed.entry.previous_hash == self._hash

    @property
    def is_last(self) -> bool:
        """Whether it is the last entry; if there is no entry at all, the empty hash is."""
        return (self._is_found or self._hash == "") and not self._is_continued
