"""A producer that knows nothing of the SDK.

Its records are malformed, in the wrong partition, too old, or dated tomorrow. It notes the address
of each acknowledged record, because the ledger must name that address in the refusal.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tests.chaos.accounts import account_now
from tests.chaos.journal import Journal
from usageledger.ledger.partitioning import partition_of
from usageledger.log.topics import Topics
from usageledger.runtime.settings import Settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka import KafkaProducer
    from kafka.errors import KafkaError


class Stranger:
    """Sends at a rate until it is stopped."""

    def __init__(self, name: str, seed: str, journal: Path, rate: float, partitions: int) -> None:
        self._journal = Journal(journal)
        self._life = datetime.now(UTC).strftime("%H%M%S%f")
        self._rng = random.Random(f"{seed}/{name}/{self._life}")
        self._rate = rate
        self._partitions = partitions
        settings = Settings.find()
        self._topics = Topics(settings.prefix)
        self._kafka = settings.kafka
        self._count = 0
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> None:
        """Send until stopped. A failed producer is replaced, because it may never send again."""
        while not self._is_ending:
            try:
                self._send_on()
            except KafkaError as error:
                print(f"replacing the producer after {error!r}", file=sys.stderr)
                time.sleep(0.5)

    def _send_on(self) -> None:
        producer = KafkaProducer(
            **self._kafka.for_kafka_python(),
            acks="all",
            delivery_timeout_ms=2**40,
            max_block_ms=5_000,
        )
        try:
            while not self._is_ending:
                time.sleep(self._rng.expovariate(self._rate))
                topic, key, value, partition, reason = self._malformed_record()
                there = producer.send(topic, key=key, value=value, partition=partition).get(
                    timeout=15
                )
                self._journal.intend(
                    topic=topic, partition=there.partition, offset=there.offset, reason=reason
                )
        finally:
            producer.flush = lambda timeout=None: None
            producer.close(timeout=0)

    def _malformed_record(self) -> tuple[str, bytes, bytes | None, int, str]:
        """Topic, key, value, partition, and the reason for which the ledger must refuse it."""
        self._count += 1
        account = account_now(self._rng)
        key, home = account.encode(), partition_of(account.encode(), self._partitions)
        event = self._event(account)
        topic = self._rng.choice((self._topics.usage, self._topics.account))
        match self._rng.randrange(8):
            case 0:
                return topic, key, b"\x00\xff not json", home, "not_json"
            case 1:
                return topic, key, b"[]", home, "not_a_cloudevent"
            case 2:
                return topic, key, None, home, "empty_record"
            case 3:
                return self._topics.account, key, _json(event), home, "unknown_type"
            case 4:
                return (
                    self._topics.usage,
                    key,
                    _json(event),
                    (home + 1) % self._partitions,
                    "wrong_partition",
                )
            case 5:
                old = (datetime.now(UTC) - timedelta(days=40)).isoformat()
                return self._topics.usage, key, _json(event | {"time": old}), home, "too_old"
            case 6:
                ahead = (datetime.now(UTC) + timedelta(days=1)).isoformat()
                return (
                    self._topics.usage,
                    key,
                    _json(event | {"time": ahead}),
                    home,
                    "dated_in_the_future",
                )
            case _:
                event["data"]["quantity"] = "-1"
                return self._topics.usage, key, _json(event), home, "invalid_event"

    def _event(self, account: str) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "type": "usage.recorded",
            "id": f"stranger-{self._life}-{self._count}",
            "source": "stranger",
            "subject": account,
            "time": datetime.now(UTC).isoformat(),
            "datacontenttype": "application/json",
            "data": {"feature": "chat_message", "quantity": "1"},
        }

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("name", "seed"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--journal", required=True, type=Path)
    arguments.add_argument("--rate", required=True, type=float)
    arguments.add_argument("--partitions", required=True, type=int)
    Stranger(**vars(arguments.parse_args())).run()


if __name__ == "__main__":
    main()
