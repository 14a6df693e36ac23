"""How many partitions a ledger was made with, how many its topics have, and whether they agree.

An account's partition hangs on the count. So a ledger whose topics have another count than its
claims decides nothing more: an account would be looked for where it never was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from kafka.errors import KafkaError

from usageledger.domain.claim import Claim, decode_claim
from usageledger.ledger.reader_rule import BEFORE_FIRST_CLAIM_MAX
from usageledger.log.admin import connect_admin
from usageledger.log.reading import BatchUnreadable, LogReader
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection, KafkaConnectionError

LOOK_EVERY_S = 15.0
ANSWER_TIMEOUT_MS = 10_000
NEXT_STEP = (
    "an account's partition hangs on their number, so nothing more is decided; a topic cannot lose "
    "partitions again: stop what reports to it, and copy it with `usageledger reshard`"
)

log = logging.getLogger(__name__)


class PartitionCountsDiffer(Exception):
    """The topics have another partition count than the ledger. The message says what to do."""


@dataclass(frozen=True, slots=True)
class PartitionCounts:
    """``claimed`` is the count in the ledger's claims, 0 before the first one.

    ``by_topic`` has each of the four topics' own, 0 where there is no such topic.
    """

    claimed: int
    by_topic: Mapping[str, int]

    @property
    def of_ledger(self) -> int:
        """How many partitions the ledger has: those of its claims, before any those of most."""
        return self.claimed or max(self.by_topic.values(), default=0)

    @property
    def missing(self) -> tuple[str, ...]:
        """The topics that do not exist."""
        return tuple(topic for topic, count in self.by_topic.items() if count == 0)

    def difference(self) -> str | None:
        """Why nothing may be decided with these counts, and what to do; None if they agree.

        A missing topic is no difference: whoever reads it reports that.
        """
        there = {topic: count for topic, count in self.by_topic.items() if count}
        if self.claimed:
            wrong = {topic: count for topic, count in there.items() if count != self.claimed}
            if not wrong:
                return None
            found = f"the ledger was made with {self.claimed} partitions, and {_listed(wrong)}"
        elif len(set(there.values())) > 1:
            found = f"the topics of a ledger have one partition count, and {_listed(there)}"
        else:
            return None
        return f"{found}: {NEXT_STEP}"

    def check(self) -> None:
        """Raise PartitionCountsDiffer if the counts differ."""
        difference = self.difference()
        if difference is not None:
            raise PartitionCountsDiffer(difference)


def partition_counts(reader: LogReader, topics: Topics) -> PartitionCounts:
    """The counts now, as a new reader sees them. Raises KafkaError, LogUnreadable."""
    by_topic = {topic: reader.partition_count(topic) for topic in topics.partitioned}
    return PartitionCounts(claimed_partitions(reader, topics, by_topic[topics.ledger]), by_topic)


def ledger_partition_count(reader: LogReader, topics: Topics) -> int:
    """Among how many partitions the accounts are divided; 0 where there is no ledger.

    Raises KafkaError, LogUnreadable.
    """
    found = reader.partition_count(topics.ledger)
    return claimed_partitions(reader, topics, found) or found


def claimed_partitions(reader: LogReader, topics: Topics, found: int) -> int:
    """The count in the first claim of any of the ``found`` ledger partitions; 0 without a claim.

    A partition whose first batch cannot be read says nothing, and stops its own readers alone.
    """
    for partition in range(found):
        start = reader.start_offset(topics.ledger, partition)
        if not start == 0 < reader.end_offset(topics.ledger, partition):
            continue
        try:
            claim = _first_claim(reader, topics, partition)
        except BatchUnreadable:
            continue
        if claim is not None and claim.partitions:
            return claim.partitions
    return 0


def _first_claim(reader: LogReader, topics: Topics, partition: int) -> Claim | None:
    end = min(reader.end_offset(topics.ledger, partition), BEFORE_FIRST_CLAIM_MAX)
    claims = (decode_claim(each.value) for each in reader.read(topics.ledger, partition, 0, end))
    return next((claim for claim in claims if claim is not None), None)


class PartitionCountWatch:
    """Looks four times a minute whether the topics still have the ledger's partition count.

    It looks in a thread of its own, because an unreachable broker takes long to fail. Once there is
    a ``difference`` it stays until the process ends. ``count`` is the ledger's, 0 while it is not
    known: then the topics are compared with each other.
    """

    def __init__(self, kafka: KafkaConnection, topics: Topics, count: int) -> None:
        self._kafka = kafka
        self.topics = topics
        self.count = count
        self.difference: str | None = None

    def look(self) -> str | None:
        """Ask the broker once. A broker that does not answer has said nothing new."""
        if self.difference is None:
            try:
                by_topic = described_counts(self._kafka, self.topics.partitioned)
            except (KafkaError, KafkaConnectionError, OSError) as error:
                log.info("the topics' partition counts are not known, asking again: %s", error)
                return None
            self.difference = PartitionCounts(self.count, by_topic).difference()
            if self.difference is not None:
                log.error("STOPPED, every partition: %s", self.difference)
        return self.difference

    def check(self) -> None:
        """Raise PartitionCountsDiffer if a look has found a difference. Asks nobody."""
        if self.difference is not None:
            raise PartitionCountsDiffer(self.difference)

    def run(self, ended: threading.Event, every_s: float) -> None:
        """Look until there is a difference or ``ended`` is set."""
        while self.look() is None and not ended.wait(every_s):
            pass


@contextmanager
def watched_partition_counts(
    kafka: KafkaConnection, topics: Topics, count: int, *, every_s: float = LOOK_EVERY_S
) -> Iterator[PartitionCountWatch]:
    """A watch that looks for as long as the context lasts."""
    watch, ended = PartitionCountWatch(kafka, topics, count), threading.Event()
    thread = threading.Thread(
        target=watch.run, args=(ended, every_s), name="usageledger-partition-counts", daemon=True
    )
    thread.start()
    try:
        yield watch
    finally:
        ended.set()


def described_counts(kafka: KafkaConnection, names: tuple[str, ...]) -> dict[str, int]:
    """The partition counts of topics now, 0 where the broker shows no such topic.

    Raises KafkaError, KafkaConnectionError.
    """
    with connect_admin(kafka, timeout_ms=ANSWER_TIMEOUT_MS) as admin:
        described = admin.describe_topics(list(names))
    found = {each["name"]: len(each["partitions"]) for each in described if not each["error_code"]}
    return {name: found.get(name, 0) for name in names}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{topic} has {count}" for topic, count in counts.items())
