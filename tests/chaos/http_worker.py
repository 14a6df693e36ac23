"""A generation service without Kafka: it places holds and reports usage at the gateway.

Faults kill it and the gateway. Whatever it journaled, it repeats under the same id until the
gateway has accepted it.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from tests.chaos.accounts import USES, account_now
from tests.chaos.journal import Journal

SOURCE = "over-http"
TIMEOUT_S = 10.0
RETRY_S = 0.3
HOLD_S = 600
"""Longer than a run: a hold that ends does so because it was settled or released."""


class HttpWorker:
    """Generates at a rate until it is stopped."""

    def __init__(
        self, name: str, seed: str, journal: Path, rate: float, gateway: str, key: str
    ) -> None:
        self._journal = Journal(journal)
        self._life = datetime.now(UTC).strftime("%H%M%S%f")
        self._rng = random.Random(f"{seed}/{name}/{self._life}")
        self._name = name
        self._rate = rate
        self._client = httpx.Client(
            base_url=gateway, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S
        )
        self._count = 0
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    def finish(self) -> None:
        """Finish the intents that the previous life left."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        self._client.close()

    def run(self) -> None:
        """Finish the intents that the previous life left, then go on."""
        for number, line in self._journal.unfinished.items():
            self._carry_out(number, line["what"], line["arguments"])
        due = time.monotonic()
        while not self._is_ending:
            due = max(due + self._rng.expovariate(self._rate), time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
            # One generation in ten fails after its hold: it is released, and nothing is reported.
            what = "release" if self._rng.random() < 0.1 else "record"
            arguments = self._use()
            self._carry_out(self._journal.intend(what=what, arguments=arguments), what, arguments)
        self._client.close()

    def _use(self) -> dict[str, Any]:
        self._count += 1
        use = self._rng.choice(USES)
        return {
            "account": account_now(self._rng),
            "id": f"{self._name}-{self._life}-{self._count}",
            "feature": use.feature,
            "model": use.model,
            "quantity": use.quantity,
            "time": datetime.now(UTC).isoformat(),
        }

    def _carry_out(self, number: int, what: str, use: dict[str, Any]) -> None:
        """Hold, and report or release. An account without credits is generated for all the same:
        a use that happened is a fact.
        """
        holds = f"/v1/accounts/{use['account']}/holds"
        asked = {name: use[name] for name in ("id", "feature", "model", "quantity")}
        self._repeat(holds, asked | {"expires_in": HOLD_S}, {201, 402, 403})
        if what == "release":
            self._repeat(f"{holds}/{use['id']}/release", None, {200})
        else:
            self._repeat("/v1/events", _event(use), {200})
        if not self._is_ending:
            self._journal.note_done(number)

    def _repeat(self, path: str, body: dict[str, Any] | None, expected: set[int]) -> None:
        """Send a request until it has an expected answer. Any other refusal is an error of ours."""
        while not self._is_ending:
            try:
                answer = self._client.post(path, json=body)
            except httpx.HTTPError as error:
                print(f"sending again: {error!r}", file=sys.stderr)
            else:
                if answer.status_code in expected:
                    return
                if answer.status_code not in (429, 503):
                    raise RuntimeError(f"{path}: {answer.status_code} {answer.text}")
            time.sleep(RETRY_S)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True


def _event(use: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": use["id"],
        "source": SOURCE,
        "subject": use["account"],
        "time": use["time"],
        "datacontenttype": "application/json",
        "data": {
            "feature": use["feature"],
            "model": use["model"],
            "quantity": use["quantity"],
            "hold_id": use["id"],
        },
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("name", "seed", "gateway", "key"):
        arguments.add_argument(f"--{name}", required=True)
    arguments.add_argument("--journal", required=True, type=Path)
    arguments.add_argument("--rate", required=True, type=float)
    arguments.add_argument("--finish", action="store_true", help="finish what is owed, and end")
    given = vars(arguments.parse_args())
    is_finishing = given.pop("finish")
    worker = HttpWorker(**given)
    worker.finish() if is_finishing else worker.run()


if __name__ == "__main__":
    main()
