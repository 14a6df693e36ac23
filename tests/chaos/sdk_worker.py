"""A generation worker: it reports usage through `UsageMeter`, and faults kill it.

On SIGTERM it ends in an orderly way. SIGUSR1 fills its disk and SIGUSR2 frees it again: a limit on
the size of files, which needs no privileges. The journal is treated as if it were on another disk,
so the limit is lifted while it is written.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tests.chaos.accounts import USES, account_now
from tests.chaos.journal import Journal
from usageledger import UsageMeter
from usageledger.sdk.producer.spool import SpoolError

FULL_DISK_BYTES = 1
RETRY_S = 0.2
REMEMBERED = 200
FLUSH_TIMEOUT_S = 90.0


class Worker:
    """Records events at a rate, until it is stopped."""

    def __init__(self, name: str, seed: str, journal: Path, spool: Path, rate: float) -> None:
        self._journal = Journal(journal)
        # Each life sends other events than the lives before it.
        self._life = datetime.now(UTC).strftime("%H%M%S%f")
        self._rng = random.Random(f"{seed}/{name}/{self._life}")
        self._name = name
        self._rate = rate
        self._meter = UsageMeter(source="render", spool_directory=spool, stuck_after_s=20.0)
        self._recent: list[dict[str, Any]] = []
        self._count = 0
        self._is_ending = False
        self._disk_is_full = False
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGUSR1, lambda *_: self._fill_disk(True))
        signal.signal(signal.SIGUSR2, lambda *_: self._fill_disk(False))

    def finish(self) -> None:
        """Finish the intents that the previous life left, and send all events that wait."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        if not self._meter.flush(FLUSH_TIMEOUT_S):
            raise TimeoutError(f"events still wait: {self._meter.waiting()}")
        self._meter.close(1.0)

    def run(self) -> None:
        """Finish the intents that the previous life left, then go on."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        due = time.monotonic()
        while not self._is_ending:
            due = max(due + self._rng.expovariate(self._rate), time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
            self._one()
        self._meter.close(1.0)

    def _one(self) -> None:
        dice = self._rng.random()
        if dice < 0.05 and self._recent:
            self._repeat(self._rng.choice(self._recent))
        elif dice < 0.06 and self._recent:
            self._contest(self._rng.choice(self._recent))
        elif dice < 0.08 and self._recent:
            used = self._rng.choice(self._recent)
            self._do(
                "void",
                "accepted",
                {"account": used["account"], "id": used["id"], "reason": "the video never arrived"},
            )
        elif dice < 0.10:
            use = self._use()
            self._do(
                "void",
                "accepted",
                {
                    "account": use["account"],
                    "id": use["id"],
                    "reason": "given up before it was reported",
                },
            )
            self._do("record", "accepted", use)
        elif dice < 0.12:
            self._do(
                "record",
                "unknown_model",
                self._use() | {"feature": "genai_video", "model": "veo_99"},
            )
        else:
            used, is_late = self._use(), self._rng.random() < 0.05
            if is_late:
                used["occurred_at"] = (
                    datetime.now(UTC) - timedelta(days=self._rng.uniform(0, 20))
                ).isoformat()
            self._do("record", "late" if is_late else "accepted", used)
            self._recent = [*self._recent[-REMEMBERED:], used]

    def _use(self) -> dict[str, Any]:
        self._count += 1
        use = self._rng.choice(USES)
        id = f"{self._name}-{self._life}-{self._count}"
        return {
            "account": account_now(self._rng),
            "feature": use.feature,
            "model": use.model,
            "quantity": use.quantity,
            "id": id,
        }

    def _repeat(self, used: dict[str, Any]) -> None:
        self._carry_out(None, "record", used)

    def _contest(self, used: dict[str, Any]) -> None:
        """Use the same id for other content. One of the two counts, and the other is refused."""
        self._do("record", "contested", used | {"feature": "genai_music", "model": "soundraw"})

    def _do(self, what: str, expect: str, arguments: dict[str, Any]) -> None:
        with self._another_disk():
            number = self._journal.intend(what=what, expect=expect, arguments=arguments)
        self._carry_out(number, what, arguments)

    def _carry_out(self, number: int | None, what: str, arguments: dict[str, Any]) -> None:
        given = dict(arguments)
        if "occurred_at" in given:
            given["occurred_at"] = datetime.fromisoformat(given["occurred_at"])
        while not self._is_ending:
            try:
                self._meter.record(**given) if what == "record" else self._meter.void(**given)
            except SpoolError as error:
                with self._another_disk():
                    print(f"not recorded: {error}", file=sys.stderr)
                time.sleep(RETRY_S)
            else:
                if number is not None:
                    with self._another_disk():
                        self._journal.note_done(number)
                return

    @contextmanager
    def _another_disk(self) -> Iterator[None]:
        if self._disk_is_full:
            _limit_files(resource.RLIM_INFINITY)
        try:
            yield
        finally:
            if self._disk_is_full:
                _limit_files(FULL_DISK_BYTES)

    def _fill_disk(self, is_full: bool) -> None:
        self._disk_is_full = is_full
        _limit_files(FULL_DISK_BYTES if is_full else resource.RLIM_INFINITY)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True


def _limit_files(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("name", "seed"):
        arguments.add_argument(f"--{name}", required=True)
    for name in ("journal", "spool"):
        arguments.add_argument(f"--{name}", required=True, type=Path)
    arguments.add_argument("--rate", required=True, type=float)
    arguments.add_argument("--finish", action="store_true", help="finish what is owed, and end")
    given = vars(arguments.parse_args())
    is_finishing = given.pop("finish")
    worker = Worker(**given)
    worker.finish() if is_finishing else worker.run()


if __name__ == "__main__":
    main()
