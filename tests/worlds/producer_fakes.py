"""A Kafka that fails as a producer's test wants, in the place of kafka-python."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from usageledger.sdk.producer.publisher import Blame, Connect, Done, PublishError
from usageledger.sdk.producer.spool import Files


class FakeKafka:
    """The log, and what goes wrong on the way to it.

    ``log`` holds (topic, key, value) as the broker would.
    """

    def __init__(self) -> None:
        self.log: list[tuple[str, bytes, bytes]] = []
        self.stored = threading.Event()
        """Set once anything is in the log."""
        self.connections: list[FakeConnection] = []
        self.is_down = False
        self.answers = True
        """False: a connection takes events and neither stores nor answers, as a stuck producer
        does.
        """
        self.loses_answers = 0
        """How many events are stored and then reported as failed."""
        self.refuses: Callable[[bytes], bool] = lambda value: False
        """Which events the broker never takes.

        All that is on its way fails with one, as kafka-python has it.
        """
        self.refuses_with = Blame.EVENT

    def connect_to(self, topic: str) -> Connect:
        return functools.partial(self._connect, topic)

    def _connect(self, topic: str) -> FakeConnection:
        if self.is_down:
            raise PublishError("no broker", Blame.CONNECTION)
        connection = FakeConnection(self, topic)
        self.connections.append(connection)
        return connection

    def values(self, topic: str | None = None) -> list[bytes]:
        return [value for each, _, value in self.log if topic in (None, each)]

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(value) for value in self.values()]


class FakeConnection:
    """One connection.

    Events are stored at once. The answer comes when `deliver` is called, or at once if the Kafka
    answers.
    """

    def __init__(self, kafka: FakeKafka, topic: str) -> None:
        self.kafka = kafka
        self.topic = topic
        self.held: list[tuple[bytes, bytes, Done]] = []
        self.timestamps_ms: list[int | None] = []
        self.is_closed = False

    def send(
        self, key: bytes, value: bytes, done: Done, *, timestamp_ms: int | None = None
    ) -> None:
        self.timestamps_ms.append(timestamp_ms)
        self.held.append((key, value, done))
        if self.kafka.answers and not any(map(self.kafka.refuses, (held[1] for held in self.held))):
            self.deliver()

    def deliver(self) -> None:
        """Answer all that was sent."""
        held, self.held = self.held, []
        if any(self.kafka.refuses(value) for _, value, _ in held):
            for _, _, done in held:
                done(PublishError("MessageSizeTooLarge", self.kafka.refuses_with))
            return
        for key, value, done in held:
            self.kafka.log.append((self.topic, key, value))
            self.kafka.stored.set()
            if self.kafka.loses_answers:
                self.kafka.loses_answers -= 1
                done(PublishError("the answer was lost", Blame.CONNECTION))
            else:
                done(None)

    def close(self) -> None:
        self.is_closed = True


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class FailingFiles(Files):
    """A disk that fails as a test wants."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.sync_error: OSError | None = None
        self.takes_bytes: int | None = None
        self.synced = 0

    def write(self, fd: int, data: bytes, offset: int) -> int:
        if self.takes_bytes is not None:
            return os.pwrite(fd, data[: self.takes_bytes], offset)
        if self.error is not None:
            raise self.error
        return super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self.synced += 1
        if self.sync_error is not None:
            raise self.sync_error


def leave_as_a_dead_process_does(directory: Path) -> None:
    """Copy a spool directory's parts away from under their locks and back: what is left when the
    process that wrote them was killed.
    """
    for part in list(directory.iterdir()):
        (part / "lock").rename(part / "old")
        (part / "lock").touch()
        (part / "old").unlink()


def in_child(work: Callable[[], object], deadline_s: float = 20.0) -> int:
    """Run ``work`` in a forked child and return its exit code: 0, or 1 if it raised.

    A child that hangs is killed, and -9 returned.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    killer = threading.Timer(deadline_s, os.kill, (pid, 9))
    killer.start()
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        killer.cancel()
