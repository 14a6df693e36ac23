"""The catalogs of the topic, for readers.

A reader gets as many of them as a partition has adopted, which the partition's head says.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.ledger.adoption import NONE_ADOPTED, adopted_catalogs
from usageledger.log.reading import LogReader, log_reader
from usageledger.log.topics import Topics
from usageledger.runtime.kafka_connection import KafkaConnection


class PublishedCatalogs:
    """Reads the catalog topic when it is asked for more than it has read, and only then.

    ``kafka`` is a connection, opened anew for each reading, or a reader that is open already.
    Blocking. Threads may share it, unless it is over an open reader.
    """

    def __init__(self, kafka: KafkaConnection | LogReader, prefix: str) -> None:
        self._kafka = kafka
        self._topics = Topics(prefix)
        self._turn = threading.Lock()
        self._by_end: dict[int, AdoptedCatalogs] = {}

    def partition_count(self) -> int:
        """How many partitions the ledger has; 0 where there is none. Raises KafkaError."""
        with self._reading() as reader:
            return reader.partition_count(self._topics.ledger)

    def known(self, before: int) -> AdoptedCatalogs | None:
        """The catalogs below an offset of the topic, if they need not be read first."""
        return NONE_ADOPTED if before == 0 else self._by_end.get(before)

    def before(self, before: int) -> AdoptedCatalogs:
        """The catalogs below an offset of the topic. Raises KafkaError, LogUnreadable."""
        with self._turn:
            # When several threads ask at once, only the first one reads.
            known = self.known(before)
            if known is None:
                with self._reading() as reader:
                    topic = self._topics.catalog
                    known = adopted_catalogs(
                        reader.read(topic, 0, reader.start_offset(topic, 0), before)
                    )
                self._by_end[before] = known
        return known

    def up_to(self, before: int) -> AdoptedCatalogs:
        """The catalogs that a partition has adopted; all in the topic if it has adopted none.

        ``before`` is its head's ``catalog_next``. Raises KafkaError, LogUnreadable.
        """
        return self.before(before) or self.published()

    def published(self) -> AdoptedCatalogs:
        """All catalogs that are in the topic now. Raises KafkaError, LogUnreadable."""
        with self._reading() as reader:
            end = reader.end_offset(self._topics.catalog, 0)
        return self.before(end)

    @contextmanager
    def _reading(self) -> Iterator[LogReader]:
        if isinstance(self._kafka, LogReader):
            yield self._kafka
        else:
            with log_reader(self._kafka) as reader:
                yield reader
