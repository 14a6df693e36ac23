"""Reading the catalog topic: once, however many callers ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import pytest

from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.ledger.records import Record
from usageledger.log import published_catalogs
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.runtime.kafka_connection import KafkaConnection

ASKING = 8


class Topic:
    """The catalog topic with one catalog in it. It counts how often it was read."""

    def __init__(self) -> None:
        self.reads = 0
        document = catalog_document(load_shipped_catalog())
        event = {
            "specversion": "1.0",
            "type": "catalog.published",
            "id": document["version"],
            "source": "/catalog",
            "data": document,
        }
        self._value = json.dumps(event).encode()

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        self.reads += 1
        yield from [Record(0, 1_767_225_600_000, None, self._value)][start:stop]


def test_catalogs_are_read_once_however_many_ask_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty checks arrived before the first had its catalogs. They read the topic six times, once
    in each thread.
    """
    topic = Topic()

    @contextmanager
    def reader(kafka: KafkaConnection) -> Iterator[Topic]:
        yield topic

    monkeypatch.setattr(published_catalogs, "log_reader", reader)
    catalogs, begun = (
        PublishedCatalogs(KafkaConnection(servers="nowhere:9092"), ""),
        Barrier(ASKING),
    )

    def ask() -> int:
        begun.wait()
        return len(catalogs.before(1))

    with ThreadPoolExecutor(ASKING) as pool:
        assert [answer.result() for answer in [pool.submit(ask) for _ in range(ASKING)]] == [
            1
        ] * ASKING
    assert topic.reads == 1
    assert len(catalogs.before(0)) == 0
    assert topic.reads == 1
