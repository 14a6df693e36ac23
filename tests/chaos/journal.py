"""The intents of a process, on a disk of its own. The expected ledger follows from them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Lines of JSON.

    An intent is synced to disk before the act, and a later line notes that the act is done.

    A process that is killed between the two finds the intent again and acts once more, as with a
    job queue. It uses the same id, so the event counts once.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.unfinished = {line["n"]: line for line in read_journal(path)}
        for number in [number for number, line in self.unfinished.items() if line.get("done")]:
            del self.unfinished[number]
        self._next = max((line["n"] for line in read_journal(path)), default=0) + 1
        self._file = path.open("ab", buffering=0)
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            self._file.write(b"\n")

    def intend(self, **what: Any) -> int:
        """Note an intent and return its number."""
        number = self._next
        self._next += 1
        self._file.write(json.dumps({"n": number, **what}).encode() + b"\n")
        os.fsync(self._file.fileno())
        return number

    def note_done(self, number: int, **how: Any) -> None:
        """Note that the act of an intent is done."""
        self._file.write(json.dumps({"n": number, "done": True, **how}).encode() + b"\n")


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """Every intent, with its later notes. A line cut short by a kill has led to no act."""
    if not path.exists():
        return
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        found[said["n"]] = found.get(said["n"], {}) | said
    yield from found.values()
