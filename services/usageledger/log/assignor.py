"""Sharing a topic's partitions out in a group, whatever a client happens to know of the topic.

Needs kafka-python alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

with warnings.catch_warnings():
    # It reads its message schemas by a call that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.coordinator.assignors.range import RangePartitionAssignor


class KnownPartitionsAssignor(RangePartitionAssignor):  # type: ignore[misc]
    """kafka-python's range assignor, with partition counts that are given beforehand.

    A group's leader shares out the partitions in its metadata. With kafka-python 3.0.12 about one
    consumer in 25 joins before any metadata came. It then assigns nothing to anybody (a warning
    says so) and does not notice when metadata arrives: it is up and receives nothing. A ledger's
    topics never change their number of partitions, so the count can be asked for beforehand.
    """

    def __init__(self, partition_counts: Mapping[str, int]) -> None:
        self._known = _Known(partition_counts)

    def assign(self, cluster: object, members: Any) -> Any:
        """See the range assignor."""
        return RangePartitionAssignor.assign(self._known, members)


class _Known:
    def __init__(self, partition_counts: Mapping[str, int]) -> None:
        self._counts = dict(partition_counts)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        count = self._counts.get(topic)
        return None if count is None else set(range(count))
