"""A process that journals each act before it acts, and finishes what its earlier lives left."""

from __future__ import annotations

import random
import signal
import time
from abc import ABC, abstractmethod
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tests.chaos.journal import Journal


class Journaled(ABC):
    """Acts at a rate until it is stopped. Each act is repeated, under the same id, until it is
    done.
    """

    def __init__(self, name: str, seed: str, journal: Path, rate: float) -> None:
        self.is_ending = False
        self.name = name
        # Each life sends other events than the lives before it.
        self.life = datetime.now(UTC).strftime("%H%M%S%f")
        self.rng = random.Random(f"{seed}/{name}/{self.life}")
        self._count = 0
        self._journal = Journal(journal)
        self._rate = rate
        signal.signal(signal.SIGTERM, self._end)

    @abstractmethod
    def next_act(self) -> tuple[str, dict[str, Any]]:
        """The name of the next act, and its arguments."""

    @abstractmethod
    def do(self, what: str, arguments: dict[str, Any]) -> None:
        """Do it, and return once it is done, or once ``is_ending`` is true."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def next_id(self) -> str:
        """An id that no other act has."""
        self._count += 1
        return f"{self.name}-{self.life}-{self._count}"

    def finish(self) -> None:
        """Finish the intents that the previous life left."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        self.close()

    def run(self) -> None:
        """Finish the intents that the previous life left, then go on."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        due = time.monotonic()
        while not self.is_ending:
            due = max(due + self.rng.expovariate(self._rate), time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
            what, arguments = self.next_act()
            self._carry_out(self._journal.intend(what=what, arguments=arguments), what, arguments)
        self.close()

    def _carry_out(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        self.do(what, arguments)
        if not self.is_ending:
            self._journal.note_done(number)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.is_ending = True


def journaled_arguments(*more: str) -> tuple[dict[str, Any], bool]:
    """The command's arguments for a `Journaled`, and whether it is to finish and end."""
    arguments = ArgumentParser()
    for name in ("name", "seed", *more):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--journal", required=True, type=Path)
    arguments.add_argument("--rate", required=True, type=float)
    arguments.add_argument("--finish", action="store_true", help="finish what is owed, and end")
    given = vars(arguments.parse_args())
    is_finishing = bool(given.pop("finish"))
    return given, is_finishing
