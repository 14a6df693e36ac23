"""A small ledger for tests of what is made of its entries: one partition, decided in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import Topic
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.log.reading import LogReader

JAN_31_MS = 1_738_317_600_000
HOUR_MS = 3_600_000


class DecidedPartition:
    """A ledger of one partition that decides each input at once, an hour after the one before."""

    def __init__(self) -> None:
        self.book = PartitionBook(
            0, 1, Head(ledger="l"), AdoptedCatalogs((load_shipped_catalog(),))
        )
        self.inputs: dict[Topic, list[Record]] = {"usage": [], "account": []}
        self.entries: list[SealedEntry] = []
        self.now_ms = JAN_31_MS

    def send(self, topic: Topic, value: bytes, key: bytes | None = b"acct_1") -> list[SealedEntry]:
        record = Record(len(self.inputs[topic]), self.now_ms, key, value)
        self.now_ms += HOUR_MS
        self.inputs[topic].append(record)
        decided: list[SealedEntry] = []
        for item in self.book.decode(topic, [record]):
            decided += self.book.decide_input(item)
        self.entries += decided
        return decided

    def use(self, id: str, **data: Any) -> list[SealedEntry]:
        return self.send(
            "usage",
            self.event(
                "usage.recorded",
                id,
                {"feature": "genai_video", "model": "veo_3", "quantity": "1"} | data,
            ),
        )

    def send_account_event(self, kind: str, id: str, **data: Any) -> list[SealedEntry]:
        return self.send("account", self.event(kind, id, data))

    def event(self, kind: str, id: str, data: dict[str, Any]) -> bytes:
        time = f"2025-01-31T{10 + (self.now_ms - JAN_31_MS) // HOUR_MS:02d}:00:00Z"
        header = {
            "specversion": "1.0",
            "type": kind,
            "id": id,
            "source": "/s",
            "subject": "acct_1",
            "time": time,
        }
        return json.dumps(header | {"data": data}).encode()


class InputReader(LogReader):
    """Reads the inputs of a `DecidedPartition`."""

    def __init__(self, ledger: DecidedPartition) -> None:
        self._ledger = ledger

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        name: Topic = "usage" if topic.startswith("usage") else "account"
        return iter(self._ledger.inputs[name][start:stop])

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return max(len(records) for records in self._ledger.inputs.values())
