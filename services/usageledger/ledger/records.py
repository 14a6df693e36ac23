"""A record as Kafka holds it, and what a ledger partition offers to its one writer and to its
readers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One record of a topic partition.

    ``timestamp_ms`` is Kafka's: milliseconds since 1970 in UTC.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Bounds(NamedTuple):
    """What a topic partition holds: the offsets with ``start <= offset < end``."""

    start: int
    end: int


class KeyedValue(NamedTuple):
    """What is to be appended: a key (the account id, or None for a claim or an adoption) and a
    value.
    """

    key: bytes | None
    value: bytes


class LedgerError(Exception):
    """An append or a read of a ledger partition did not succeed.

    ``retriable`` says whether claiming again can help.
    """

    retriable = True


class Superseded(LedgerError):
    """The offsets that came back are not the expected ones: another worker has claimed the
    partition.

    Nothing of ours after that is valid.
    """


class AppendOutcomeUnknown(LedgerError):
    """The broker's answer was lost: the entries may or may not lie in the log.

    Only a new claim and a catch-up can tell.
    """


class GroupTooLarge(LedgerError):
    """The entries of one input are more than the log takes in one batch.

    Nothing was appended, and claiming again cannot help.
    """

    retriable = False


class RecordsMissing(LedgerError):
    """Records that were asked for are not in the log: it was truncated, or another topic lies in
    its place. Nothing resets by itself.
    """

    retriable = False


class LedgerPartition(Protocol):
    """One partition of ``ledger.entries``.

    Adapters: ``log.kafka_ledger`` (aiokafka) and ``log.memory``.
    """

    async def claim(self, claim: KeyedValue) -> int:
        """Append a claim and return the offset at which it lies. Raises LedgerError."""
        ...

    async def append(self, expected_offset: int, groups: Sequence[Sequence[KeyedValue]]) -> None:
        """Append groups in order; each group (the entries of one input) lies in one record batch,
        whole or not at all.

        Returns once all in-sync replicas have every record and each lies where expected: the first
        at ``expected_offset``, without a gap. Raises Superseded if one lies elsewhere,
        AppendOutcomeUnknown if no answer came. After either the owner must stop and claim again.
        """
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """Yield chunks of the records with ``start <= offset < stop``, in order, and end when all
        were read.

        Raises LedgerError when no progress is made.
        """
        ...

    async def start_offset(self) -> int:
        """The offset of the oldest record that is still there (0 unless the topic was
        truncated).
        """
        ...

    async def end_offset(self) -> int:
        """The offset that the next record will have."""
        ...
