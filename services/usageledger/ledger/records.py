"""A record as Kafka holds it, and a ledger partition as its one writer and its readers use it."""

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
    """The offsets that a topic partition holds: those with ``start <= offset < end``."""

    start: int
    end: int


class KeyedValue(NamedTuple):
    """A record to append: a value, and its key.

    The key is the account id, or None for a claim and for an adoption.
    """

    key: bytes | None
    value: bytes


class LedgerError(Exception):
    """An append or a read of a ledger partition did not succeed.

    ``retriable`` says whether claiming again can help.
    """

    retriable = True


class Superseded(LedgerError):
    """The returned offsets are not the expected ones: another worker has claimed the partition.

    Nothing that this worker appended after that claim is valid.
    """


class AppendOutcomeUnknown(LedgerError):
    """The broker's answer was lost: the entries may or may not be in the log.

    Only a new claim and a catch-up can tell.
    """


class GroupTooLarge(LedgerError):
    """The entries of one input are more than the log accepts in one batch.

    Nothing was appended, and claiming again cannot help.
    """

    retriable = False


class RecordsMissing(LedgerError):
    """Requested records are not in the log: it was truncated, or another topic has its name.

    Nothing resets by itself.
    """

    retriable = False


class RecordsUnreadable(LedgerError):
    """A batch of the log cannot be decoded: it is broken, too large, or of an unknown codec.

    Nothing skips it by itself.
    """

    retriable = False


class LedgerPartition(Protocol):
    """One partition of ``ledger.entries``.

    Adapters: ``log.kafka_ledger`` (aiokafka) and ``log.memory``.
    """

    async def claim(self, claim: KeyedValue) -> int:
        """Append a claim and return its offset. Raises LedgerError."""
        ...

    async def append(self, expected_offset: int, groups: Sequence[Sequence[KeyedValue]]) -> None:
        """Append groups in order.

        A group has the entries of one input. It is in one record batch, so the log has all of it or
        nothing. Returns once all in-sync replicas have every record, each at its expected offset:
        the first at ``expected_offset``, without a gap. Raises Superseded if one is elsewhere, and
        AppendOutcomeUnknown if no answer came. After either, the owner must stop and claim again.
        """
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[Sequence[Record]]:
        """Yield chunks of the records with ``start <= offset < stop``, in order, to the last one.

        Raises LedgerError if there is no progress.
        """
        ...

    async def start_offset(self) -> int:
        """The offset of the oldest record that is still there: 0 unless the topic was truncated."""
        ...

    async def end_offset(self) -> int:
        """The offset that the next record will have."""
        ...
