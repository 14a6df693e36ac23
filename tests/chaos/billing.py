"""Billing and support: plans, cancellations, grants and voids through `AccountClient`.

Faults kill this process, and it is started again.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.chaos.accounts import PLANS, account_now, anchor_that_ends_in
from tests.chaos.journaled import Journaled, journaled_arguments
from usageledger import AccountClient, CommandFailed


class Billing(Journaled):
    """Sends commands."""

    def __init__(self, name: str, seed: str, journal: Path, rate: float) -> None:
        super().__init__(name, seed, journal, rate)
        self._client = AccountClient(source="billing", timeout_s=10.0)

    def close(self) -> None:
        self._client.close()

    def next_act(self) -> tuple[str, dict[str, Any]]:
        now = datetime.now(UTC)
        common = {"account": account_now(self.rng), "id": self.next_id()}
        dice = self.rng.random()
        if dice < 0.45:
            ends_in_s = self.rng.uniform(8.0, 60.0)
            anchor = anchor_that_ends_in(ends_in_s, now)
            return "subscribe", common | {
                "plan": self.rng.choice(PLANS),
                "anchor": anchor.isoformat(),
            }
        if dice < 0.60:
            return "change_plan", common | {"plan": self.rng.choice((*PLANS, "free"))}
        if dice < 0.70:
            return "cancel", common | {"effective": self.rng.choice(("period_end", "now"))}
        expires_at = (
            (now + timedelta(seconds=self.rng.uniform(6.0, 50.0))).isoformat()
            if self.rng.random() < 0.7
            else None
        )
        return "grant_credits", common | {
            "credits": self.rng.choice(("5", "40", "250")),
            "reason": "a promotion",
            "expires_at": expires_at,
        }

    def do(self, what: str, arguments: dict[str, Any]) -> None:
        given = {
            name: datetime.fromisoformat(value)
            if name in ("anchor", "expires_at") and value
            else value
            for name, value in arguments.items()
        }
        while not self.is_ending:
            try:
                getattr(self._client, what)(**given)
            except CommandFailed as error:
                print(f"sending again: {error}", file=sys.stderr)
                if not error.retriable:
                    raise
            else:
                return


def main() -> None:
    given, is_finishing = journaled_arguments()
    billing = Billing(**given)
    billing.finish() if is_finishing else billing.run()


if __name__ == "__main__":
    main()
