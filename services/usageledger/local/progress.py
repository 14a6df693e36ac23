"""How the stack tells its caller what it is doing; nothing in ``local`` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives the stack's steps and warnings. Called from several threads at once."""

    def say(self, message: str) -> None:
        """A step was begun or done, in one line."""
        ...

    def warn(self, message: str) -> None:
        """Something went wrong and is being dealt with (a service ended and is started again).

        May have several lines.
        """
        ...

    def fetching(
        self, what: str, total_bytes: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A download of ``total_bytes`` begins; call what the context gives with each number of
        bytes that came (negative: taken back).
        """
        ...


class Silent:
    """Tells nobody."""

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

        def came(count: int) -> None:
            self.fetched_bytes += count

        yield came
