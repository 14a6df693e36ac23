"""Billing and support: plans, cancellations, grants and voids through `AccountClient`.

Faults kill this process, and it is started again.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tests.chaos.accounts import PLANS, account_now, anchor_that_ends_in
from tests.chaos.journal import Journal
from usageledger import AccountClient, CommandFailed


class Billing:
    """Sends commands at a rate until it is stopped.

    It repeats each command, under the same id, until it succeeds.
    """

    def __init__(self, name: str, seed: str, journal: Path, rate: float) -> None:
        self._journal = Journal(journal)
        self._life = datetime.now(UTC).strftime("%H%M%S%f")
        self._rng = random.Random(f"{seed}/{name}/{self._life}")
        self._name = name
        self._rate = rate
        self._client = AccountClient(source="billing", timeout_s=10.0)
        self._count = 0
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    def finish(self) -> None:
        """Finish the commands that the previous life left."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        self._client.close()

    def run(self) -> None:
        """Finish the commands that the previous life left, then go on."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        due = time.monotonic()
        while not self._is_ending:
            due = max(due + self._rng.expovariate(self._rate), time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
            what, arguments = self._command()
            self._carry_out(self._journal.intend(what=what, arguments=arguments), what, arguments)
        self._client.close()

    def _command(self) -> tuple[str, dict[str, Any]]:
        self._count += 1
        now = datetime.now(UTC)
        common = {
            "account": account_now(self._rng),
            "id": f"{self._name}-{self._life}-{self._count}",
        }
        dice = self._rng.random()
        if dice < 0.45:
            ends_in_s = self._rng.uniform(8.0, 60.0)
            anchor = anchor_that_ends_in(ends_in_s, now)
            return "subscribe", common | {
                "plan": self._rng.choice(PLANS),
                "anchor": anchor.isoformat(),
            }
        if dice < 0.60:
            return "change_plan", common | {"plan": self._rng.choice((*PLANS, "free"))}
        if dice < 0.70:
            return "cancel", common | {"effective": self._rng.choice(("period_end", "now"))}
        expires_at = (
            (now + timedelta(seconds=self._rng.uniform(6.0, 50.0))).isoformat()
            if self._rng.random() < 0.7
            else None
        )
        return "grant_credits", common | {
            "credits": self._rng.choice(("5", "40", "250")),
            "reason": "a promotion",
            "expires_at": expires_at,
        }

    def _carry_out(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        given = {
            name: datetime.fromisoformat(value)
            if name in ("anchor", "expires_at") and value
            else value
            for name, value in arguments.items()
        }
        while not self._is_ending:
            try:
                getattr(self._client, what)(**given)
            except CommandFailed as error:
                print(f"sending again: {error}", file=sys.stderr)
                if not error.retriable:
                    raise
            else:
                self._journal.note_done(number)
                return

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("name", "seed"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--journal", required=True, type=Path)
    arguments.add_argument("--rate", required=True, type=float)
    arguments.add_argument("--finish", action="store_true", help="finish what is owed, and end")
    given = vars(arguments.parse_args())
    is_finishing = given.pop("finish")
    billing = Billing(**given)
    billing.finish() if is_finishing else billing.run()


if __name__ == "__main__":
    main()
