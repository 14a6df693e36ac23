"""The customer's side of the demo: workers that report what they generate, and an app that stops
accounts and sells them upgrades.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from usageledger.local.demo.workload import SOURCE, Use
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.limits.limit_event import LimitEvent
from usageledger.sdk.limits.subscriber import LimitSubscriber
from usageledger.sdk.producer.account_client import AccountClient
from usageledger.sdk.producer.meter import UsageMeter

UPGRADES_ONE_IN = 2
"""One in this many accounts that run out takes the upgrade that it is offered."""


@dataclass(slots=True)
class Tally:
    """The app's own count of its generations, and of the limit events that reached it.

    ``generated`` is micro-credits by account, computed from the rate card.
    """

    generations: int = 0
    held_back: int = 0
    generated: Counter[str] = field(default_factory=Counter)
    blocked: int = 0
    freed: int = 0
    upgraded: list[tuple[str, str]] = field(default_factory=list)
    warned: int = 0
    delays_ms: list[float] = field(default_factory=list)


class Studio:
    """Plays uses at a speed through the SDKs. ``tally`` may be read while it plays."""

    def __init__(self, kafka: KafkaConnection, prefix: str, spool: Path) -> None:
        self.tally = Tally()
        self._kafka, self._prefix, self._spool = kafka, prefix, spool
        self._offers: queue.Queue[LimitEvent | None] = queue.Queue()

    def open_accounts(self, subscriptions: Iterable[tuple[str, str]]) -> None:
        """Subscribe the accounts to their first plans."""
        with AccountClient(
            source="/demo/billing", kafka=self._kafka, prefix=self._prefix
        ) as billing:
            for account, plan in subscriptions:
                billing.subscribe(account, plan)

    def play(self, uses: Iterable[Use], speed: float, on_progress: Callable[[Use], None]) -> None:
        """Report each use at its time, unless its account is blocked.

        Returns when Kafka has acknowledged all of them.
        """
        subscriber = LimitSubscriber(kafka=self._kafka, prefix=self._prefix)
        subscriber.on_reached(self._on_reached)
        subscriber.on_cleared(self._on_cleared)
        subscriber.on_threshold(self._on_threshold)
        selling = threading.Thread(target=self._sell_upgrades, name="demo-billing")
        with (
            subscriber,
            UsageMeter(
                source=SOURCE, kafka=self._kafka, prefix=self._prefix, spool_directory=self._spool
            ) as meter,
        ):
            selling.start()
            try:
                began = time.monotonic()
                for use in uses:
                    time.sleep(max(0.0, began + use.arrived_s / speed - time.monotonic()))
                    self._generate(use, meter, subscriber)
                    on_progress(use)
                if not meter.flush(60.0):
                    raise TimeoutError(f"Kafka has not acknowledged all usage: {meter.waiting()}")
            finally:
                self._offers.put(None)
                selling.join(30.0)

    def _generate(self, use: Use, meter: UsageMeter, subscriber: LimitSubscriber) -> None:
        if subscriber.is_blocked(use.account):
            self.tally.held_back += 1
            return
        meter.record(
            account=use.account,
            feature=use.feature,
            model=use.model,
            quantity=use.quantity,
            id=use.id,
        )
        self.tally.generations += 1
        self.tally.generated[use.account] += use.credits

    def _on_reached(self, event: LimitEvent) -> None:
        self.tally.blocked += 1
        self._note_delay(event)
        if event.upgrade is not None and self.tally.blocked % UPGRADES_ONE_IN == 0:
            self._offers.put(event)

    def _on_cleared(self, event: LimitEvent) -> None:
        self.tally.freed += 1

    def _on_threshold(self, event: LimitEvent) -> None:
        self.tally.warned += 1
        self._note_delay(event)

    def _note_delay(self, event: LimitEvent) -> None:
        """Add the time from the crossing generation to the app's handler, on one clock."""
        if event.crossed_by is not None and event.reason == "usage":
            self.tally.delays_ms.append(
                (datetime.now(UTC) - event.crossed_by.occurred_at).total_seconds() * 1_000
            )

    def _sell_upgrades(self) -> None:
        with AccountClient(
            source="/demo/billing", kafka=self._kafka, prefix=self._prefix
        ) as billing:
            while (event := self._offers.get()) is not None:
                if event.upgrade is None:
                    continue
                change = billing.subscribe if event.plan == "free" else billing.change_plan
                change(event.account, event.upgrade.plan)
                self.tally.upgraded.append((event.account, event.upgrade.plan))
