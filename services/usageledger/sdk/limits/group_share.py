"""`GroupShare`: the instances of an app share its limit events among them, as a consumer group."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from usageledger.ledger.limit_address import LimitAddress
from usageledger.log.kafka_python_reading import BoundedPolls
from usageledger.sdk.kafka_python import OffsetAndMetadata, TopicPartition, kafka_errors
from usageledger.sdk.limits.consuming import (
    COMMIT_TIMEOUT_MS,
    NOT_OURS_NOW,
    require_readable,
)

POLL_MS = 100
LAST_COMMIT_ATTEMPTS = 20


class Starts(NamedTuple):
    """Where handling begins: an offset per partition, and the last address before that offset.

    A partition that is not named begins at its beginning.
    """

    offsets: Mapping[int, int]
    addresses: Mapping[int, LimitAddress]


class GroupShare:
    """The partitions that the group has assigned to this instance, and how far they are handled.

    The group's committed offsets record that progress. A commit's metadata holds the address of the
    last handled event, so that the next instance recognises repeats.

    ``handled_here`` maps a partition to the last event that this instance has handled, over earlier
    connections too. It is updated in place.
    """

    def __init__(
        self, consumer: Any, topic: str, starts: Starts, handled_here: dict[int, LimitAddress]
    ) -> None:
        self._consumer = consumer
        self._polls = BoundedPolls(consumer)
        self._topic = topic
        self._starts = starts
        self._handled_here = handled_here
        self._membership = _Membership("", -1, frozenset())
        self._progress: dict[int, _Progress] = {}
        self._uncommitted: set[int] = set()
        # A consumer that joins before it knows the topic's partitions causes another rebalance as
        # soon as it does.
        consumer.partitions_for_topic(topic)

    def poll(self, timeout_ms: int) -> list[Any]:
        """Return the next few records.

        Returns none right after a rebalance: first it finds out how far the group has come.
        Raises SubscriberFailed where a partition cannot be read on.
        """
        polled, unreadable = self._polls.poll(timeout_ms)
        metadata = self._consumer.group_metadata()
        membership = _Membership(
            metadata.member_id, metadata.generation_id, frozenset(self._consumer.assignment())
        )
        if membership == self._membership:
            if not polled:
                require_readable(unreadable)
            return [record for records in polled.values() for record in records]
        with contextlib.suppress(kafka_errors.RetriableError, *NOT_OURS_NOW):
            self._adopt(membership)
        return []

    def is_new(self, address: LimitAddress) -> bool:
        """Whether the group has not handled this event yet."""
        last = self._progress[address.partition].last
        return last is None or (address.offset, address.index) > last

    def note_handled(self, record: Any, address: LimitAddress) -> None:
        """Note that the share continues after this record. `commit` makes that durable."""
        if self.is_new(address):
            self._handled_here[address.partition] = address
            last: tuple[int, int] | None = (address.offset, address.index)
        else:
            last = self._progress[address.partition].last
        self._progress[address.partition] = _Progress(record.offset + 1, last)
        self._uncommitted.add(address.partition)

    def note_ignored(self, record: Any) -> None:
        """Note that the share continues after this record, which holds no event."""
        last = self._progress[record.partition].last
        self._progress[record.partition] = _Progress(record.offset + 1, last)
        self._uncommitted.add(record.partition)

    def commit(self) -> None:
        """Commit how far the events are handled.

        If that fails now, a later call commits it. Or the events come again after a rebalance.
        """
        offsets = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(
                progress.next_offset, _metadata_text(progress.last), -1
            )
            for partition, progress in self._progress.items()
            if partition in self._uncommitted
        }
        if not offsets:
            return
        with contextlib.suppress(kafka_errors.RetriableError, *NOT_OURS_NOW):
            self._consumer.commit(offsets, timeout_ms=COMMIT_TIMEOUT_MS)
            self._uncommitted.clear()

    def commit_last(self) -> None:
        """Commit before the end, and wait out a rebalance that may be under way."""
        for _ in range(LAST_COMMIT_ATTEMPTS):
            self.commit()
            if not self._uncommitted:
                return
            self.poll(POLL_MS)

    def _adopt(self, membership: _Membership) -> None:
        """Begin with the partitions that are now assigned.

        A partition that was ours in the generation right before this one keeps its progress: no
        other instance can have handled it since.
        """
        kept = self._progress if membership.follows(self._membership) else {}
        progress: dict[int, _Progress] = {}
        begun: set[int] = set()
        for partition in membership.partitions:
            number = partition.partition
            if number in kept:
                progress[number] = kept[number]
            else:
                progress[number], is_committed = self._progress_of_group(partition)
                begun |= set() if is_committed else {number}
            self._consumer.seek(partition, progress[number].next_offset)
        # A new group's start is committed too. It then begins there even after a restart that
        # happens before its first event.
        self._uncommitted = (self._uncommitted & kept.keys() & progress.keys()) | begun
        self._progress, self._membership = progress, membership

    def _progress_of_group(self, partition: Any) -> tuple[_Progress, bool]:
        """Return how far the group has come, and whether it has committed that."""
        committed = self._consumer.committed(partition, metadata=True, timeout_ms=COMMIT_TIMEOUT_MS)
        if committed is not None and committed.offset >= 0:
            here = self._handled_here.get(partition.partition)
            candidates = [
                _last_in(committed.metadata),
                None if here is None else (here.offset, here.index),
            ]
            last = max((each for each in candidates if each is not None), default=None)
            return _Progress(committed.offset, last), True
        known = self._starts.addresses.get(partition.partition)
        last = None if known is None else (known.offset, known.index)
        return _Progress(self._starts.offsets.get(partition.partition, 0), last), False


class _Progress(NamedTuple):
    next_offset: int
    last: tuple[int, int] | None
    """The address of the last handled event: offset and index."""


class _Membership(NamedTuple):
    member: str
    generation: int
    partitions: frozenset[Any]

    def follows(self, before: _Membership) -> bool:
        """Whether the group had no generation in between."""
        return self.member == before.member and self.generation == before.generation + 1


def _metadata_text(last: tuple[int, int] | None) -> str:
    return "" if last is None else f"{last[0]}-{last[1]}"


def _last_in(metadata: str | None) -> tuple[int, int] | None:
    """Return the address in a commit's metadata.

    Returns None if another tool has set the offset. A repeat can then reach the handlers.
    """
    found = re.fullmatch(r"(\d+)-(\d+)", metadata or "", re.ASCII)
    return None if found is None else (int(found[1]), int(found[2]))
