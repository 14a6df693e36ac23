"""The connection to Kafka, as the sender needs it.

Adapters: ``kafka_publisher`` (kafka-python), and a fake in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol


class Blame(Enum):
    """The cause of a failure to publish, which decides what helps."""

    CONNECTION = "connection"
    """The connection, the topic or our rights to it. Every event fails until that is mended."""
    EVENT = "event"
    """One event, which the broker does not accept.

    If `Publisher.send` raises this, it is the event being sent. If ``done`` gets it, it may be
    another event in flight: kafka-python fails all of them with the error of one.
    """
    UNCLEAR = "unclear"
    """Either."""


class PublishError(Exception):
    """An event was not acknowledged.

    It may be in the topic all the same. Sending it again is safe only under the same id.
    """

    def __init__(self, message: str, blame: Blame) -> None:
        super().__init__(message)
        self.blame = blame


Done = Callable[[PublishError | None], None]
"""Called once, from any thread: None when all in-sync replicas have the event."""


class Publisher(Protocol):
    """One connection to Kafka, publishing to one topic in the order of the calls."""

    def send(
        self, key: bytes, value: bytes, done: Done, *, timestamp_ms: int | None = None
    ) -> None:
        """Hand an event over.

        Blocks for the stated few seconds at most. Raises PublishError (and then ``done`` is never
        called). Without ``timestamp_ms`` the clock dates the record, or Kafka itself.
        """
        ...

    def close(self) -> None:
        """Close at once, without waiting for acknowledgements. ``done`` may still be called."""
        ...


Connect = Callable[[], Publisher]
"""Makes a publisher. Blocks for a bounded time. Raises PublishError."""

ConnectTo = Callable[[str], Connect]
"""Makes the connector of a topic. Tests substitute a fake Kafka here."""
