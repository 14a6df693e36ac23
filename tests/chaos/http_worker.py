"""A generation service without Kafka: it places holds and reports usage at the gateway.

Faults kill it and the gateway. Whatever it journaled, it repeats under the same id until the
gateway has accepted it.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.accounts import USES, account_now
from tests.chaos.journaled import Journaled, journaled_arguments

SOURCE = "over-http"
TIMEOUT_S = 10.0
RETRY_S = 0.3
HOLD_S = 600
"""Longer than a run: a hold that ends does so because it was settled or released."""


class HttpWorker(Journaled):
    """Holds, and reports or releases."""

    def __init__(
        self, name: str, seed: str, journal: Path, rate: float, gateway: str, key: str
    ) -> None:
        super().__init__(name, seed, journal, rate)
        self._client = httpx.Client(
            base_url=gateway, headers={"Authorization": f"Bearer {key}"}, timeout=TIMEOUT_S
        )

    def close(self) -> None:
        self._client.close()

    def next_act(self) -> tuple[str, dict[str, Any]]:
        use = self.rng.choice(USES)
        # One generation in ten fails after its hold: it is released, and nothing is reported.
        return "release" if self.rng.random() < 0.1 else "record", {
            "account": account_now(self.rng),
            "id": self.next_id(),
            "feature": use.feature,
            "model": use.model,
            "quantity": use.quantity,
            "time": datetime.now(UTC).isoformat(),
        }

    def do(self, what: str, arguments: dict[str, Any]) -> None:
        """Hold, and report or release. An account without credits is generated for all the same:
        a use that happened is a fact.
        """
        holds = f"/v1/accounts/{arguments['account']}/holds"
        asked = {name: arguments[name] for name in ("id", "feature", "model", "quantity")}
        self._repeat(holds, asked | {"expires_in": HOLD_S}, {201, 402, 403})
        if what == "release":
            self._repeat(f"{holds}/{arguments['id']}/release", None, {200})
        else:
            self._repeat("/v1/events", _event(arguments), {200})

    def _repeat(self, path: str, body: dict[str, Any] | None, expected: set[int]) -> None:
        """Send a request until it has an expected answer. Any other refusal is an error of ours."""
        while not self.is_ending:
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
    given, is_finishing = journaled_arguments("gateway", "key")
    worker = HttpWorker(**given)
    worker.finish() if is_finishing else worker.run()


if __name__ == "__main__":
    main()
