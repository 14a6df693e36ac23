"""How the stack reports its steps to its caller. Nothing in ``local`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the stack's steps and warnings. Called from several threads at once."""

    def say(self, message: str) -> None:
        """Report in one line that a step begins or is done."""
        ...

    def warn(self, message: str) -> None:
        """Report a fault that the stack handles, such as the end of a service.

        The message may have several lines.
        """
        ...

    def fetching(
        self, what: str, total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Report a download of ``total_bytes``, which lasts as long as the context.

        The context gives a function. Call it with each number of bytes received. A negative number
        retracts the bytes of a failed attempt.
        """
        ...


class Silent:
    """Drops every message."""

    def say(self, message: str) -> None:
        return

    def warn(self, message: str) -> None:
        return

    @contextmanager
    def fetching(self, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield lambda count: None


class Remembering(Silent):
    """Keeps the messages, for tests and for callers that show them later."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.fetched_bytes = 0

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)

    @contextmanager
    def fetching(self, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        self.said.append(f"fetching {what}: {total_bytes} bytes")

        def on_bytes(count: int) -> None:
            self.fetched_bytes += count

        yield on_bytes
