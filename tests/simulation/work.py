"""Random events of accounts: uses, repeats, voids, plan changes, grants, suspensions, junk."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any

from usageledger.processor.inputs import Source

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Pacific/Apia",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
)
PLANS = ("pro", "pro", "max", "scale", "free", "nonsense")
JUNK: tuple[tuple[bytes | None, bytes | None], ...] = (
    (b"a", b"junk"),
    (None, None),
    (b"a", b"{}"),
    (b"\xff", b"[]"),
    (b"a", None),
    (b"", b"\x00\xff"),
    (
        b"a",
        b'{"specversion":"1.0","type":"usage.recorded","id":"1","source":"/render",'
        b'"subject":"a","time":"yesterday","data":{}}',
    ),
    (
        b"a",
        b'{"specversion":"1.0","type":"usage.exploded","id":"1","source":"/render",'
        b'"subject":"a","time":"2025-01-01T00:00:00Z"}',
    ),
    (b"a", b"[" * 600),
)

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

Send = Callable[[Source, bytes | None, bytes | None, datetime], None]
"""Appends a record to an input topic, given its key, its value and its time in an import."""


class Work:
    """Makes events at ``now()`` and sends them.

    ``send_astray`` sends them to partitions where their keys do not belong.
    """

    def __init__(
        self,
        random: Random,
        accounts: list[str],
        now: Callable[[], datetime],
        let_pass: Callable[[timedelta], None],
        send: Send,
        send_astray: Send,
    ) -> None:
        self._random = random
        self._accounts = accounts
        self._now = now
        self._let_pass = let_pass
        self._send_record = send
        self._send_astray = send_astray
        self._count = 0
        self._used: list[tuple[str, str, datetime, dict[str, Any]]] = []
        self._account_events: list[tuple[str, str, str, datetime, dict[str, Any]]] = []

    def use(self) -> None:
        self._use(self._account(), self._now())

    def burst(self) -> None:
        """Enough uses to bring an account to its limit."""
        account = self._account()
        for _ in range(self._random.randrange(2, 6)):
            self._use(
                account,
                self._now(),
                {
                    "feature": "prompt_to_video",
                    "quantity": self._random.choice(("5", "10", "12.5", "30")),
                },
            )

    def use_late(self) -> None:
        self._use(
            self._account(),
            self._now() - timedelta(hours=self._random.choice((1, 30, 71, 73, 200, 839, 841))),
        )

    def use_by_a_fast_clock(self) -> None:
        self._use(
            self._account(),
            self._now() + timedelta(seconds=self._random.choice((20, 299, 301, 90_000))),
        )

    def use_again(self) -> None:
        """A retry, soon or long afterwards, with the same time or another."""
        if self._used:
            account, event_id, at, data = self._random.choice(self._used[-60:])
            self._send(
                "usage.recorded",
                account,
                event_id,
                self._random.choice((at, at, self._now())),
                data,
            )

    def use_over_months(self) -> None:
        """A retry, and the same id again after it has expired.

        In an import, both can be in one chunk.
        """
        if self._used:
            account, event_id, at, data = self._used[-1]
            self._send("usage.recorded", account, event_id, at, data)
            self._let_pass(timedelta(days=self._random.choice((36, 40, 75))))
            self._send("usage.recorded", account, event_id, self._now(), data)

    def use_again_with_other_content(self) -> None:
        if self._used:
            account, event_id, _, data = self._random.choice(self._used[-20:])
            self._send("usage.recorded", account, event_id, self._now(), {**data, "quantity": "9"})

    def tell_again(self) -> None:
        """An account event twice."""
        if self._account_events:
            type_, account, event_id, at, data = self._random.choice(self._account_events[-20:])
            self._send(type_, account, event_id, self._random.choice((at, self._now())), data)

    def void(self) -> None:
        """Void a use that was sent."""
        if self._used:
            account, event_id, _, _ = self._random.choice(self._used[-30:])
            self._send_account_event("usage.voided", account, {"source": "/render", "id": event_id})

    def void_first(self) -> None:
        """The void overtakes its use, which may never come."""
        account, event_id, data = self._account(), self._new_id(), self._usage_data()
        self._used.append((account, event_id, self._now(), data))
        self._send_account_event("usage.voided", account, {"source": "/render", "id": event_id})

    def subscribe(self) -> None:
        account, data = self._account(), {"plan": self._random.choice(PLANS)}
        if self._random.random() < 0.7:
            data["time_zone"] = self._random.choice(ZONES)
        if self._random.random() < 0.2:
            data["anchor"] = _iso_text(
                self._now() - timedelta(days=self._random.choice((1, 10, 29, 45)))
            )
        self._send_account_event("account.subscribed", account, data)

    def change_plan(self) -> None:
        self._send_account_event(
            "account.plan_changed", self._account(), {"plan": self._random.choice(PLANS)}
        )

    def cancel(self) -> None:
        self._send_account_event(
            "account.cancelled",
            self._account(),
            {"effective": self._random.choice(("now", "period_end"))},
        )

    def open(self) -> None:
        data = {
            "plan": self._random.choice(PLANS),
            "used": self._random.choice(("0", "150", "210")),
            "free_used": "50",
        }
        anchor = self._now() - timedelta(days=self._random.choice((3, 20, 45)))
        account = self._random.choice((self._account(), f"brought-{self._new_id()}"))
        self._send_account_event(
            "account.opened",
            account,
            {**data, "anchor": _iso_text(anchor), "time_zone": self._random.choice(ZONES)},
        )

    def grant(self) -> None:
        data = {"credits": self._random.choice(("10", "25", "0.5")), "reason": "sorry"}
        if self._random.random() < 0.7:
            data["expires_at"] = _iso_text(
                self._now() + timedelta(days=self._random.choice((-1, 0.001, 0.5, 3, 20, 50)))
            )
        self._send_account_event("credits.granted", self._account(), data)

    def suspend(self) -> None:
        self._send_account_event(
            "account.suspended",
            self._account(),
            {"reason": self._random.choice(("payment_failed", "fraud"))},
        )

    def resume(self) -> None:
        self._send_account_event("account.resumed", self._account(), {})

    def set_thresholds(self) -> None:
        thresholds = self._random.choice((None, [], ["0.5"], ["0.25", "0.5", "0.95"]))
        self._send_account_event(
            "account.thresholds_set", self._account(), {"thresholds": thresholds}
        )

    def send_junk(self) -> None:
        self._send_record(
            self._random.choice(list(Source)), *self._random.choice(JUNK), self._now()
        )

    def send_much_junk(self) -> None:
        """Send junk in a row, which may become one entry or several."""
        source, key = self._random.choice(list(Source)), self._account().encode()
        for _ in range(self._random.randrange(5, 25)):
            value = self._random.choice((b"junk", b"", b"[]"))
            self._send_record(source, key, value, self._now())

    def send_without_a_time(self) -> None:
        """In an import a record can have any timestamp."""
        at = self._random.choice((_EPOCH, self._now() - timedelta(days=3)))
        record = self._record(
            "usage.recorded", self._account(), self._new_id(), self._now(), self._usage_data()
        )
        self._send_record(Source.USAGE, *record, at)

    def send_astray(self) -> None:
        """Send a use to the partition that another partitioner would choose."""
        record = self._record(
            "usage.recorded", self._account(), self._new_id(), self._now(), self._usage_data()
        )
        self._send_astray(Source.USAGE, *record, self._now())

    def _use(self, account: str, at: datetime, data: dict[str, Any] | None = None) -> None:
        data, event_id = data or self._usage_data(), self._new_id()
        self._used.append((account, event_id, at, data))
        self._send("usage.recorded", account, event_id, at, data)

    def _usage_data(self) -> dict[str, Any]:
        # Only a later catalog has the last of these.
        model = self._random.choice(("veo_3", "veo_3", "veo_2", "veo_4"))
        if self._random.random() < 0.2:
            return {"feature": "chat_message", "quantity": self._random.choice(("1", "2.5", "0"))}
        return {
            "feature": "genai_video",
            "model": model,
            "quantity": self._random.choice(("1", "1", "2")),
        }

    def _send_account_event(self, type_: str, account: str, data: dict[str, Any]) -> None:
        event_id, at = self._new_id(), self._now()
        if self._random.random() < 0.1:
            at -= timedelta(hours=self._random.choice((1, 30, 300)))
        self._account_events.append((type_, account, event_id, at, data))
        self._send(type_, account, event_id, at, data)

    def _send(
        self, type_: str, account: str, event_id: str, at: datetime, data: dict[str, Any]
    ) -> None:
        source = Source.USAGE if type_ == "usage.recorded" else Source.ACCOUNT
        appended = self._now()
        if self._random.random() < 0.1:  # the dates of an import are in no order
            appended -= timedelta(days=self._random.choice((0.1, 3)))
        self._send_record(source, *self._record(type_, account, event_id, at, data), appended)

    def _record(
        self, type_: str, account: str, event_id: str, at: datetime, data: dict[str, Any]
    ) -> tuple[bytes, bytes]:
        source = "/render" if type_ == "usage.recorded" else "/billing"
        if source == "/render" and event_id[-1] in "02468":
            # A retry names the hold of the first attempt.
            data = {**data, "hold_id": f"hold-{event_id}"}
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": event_id,
            "source": source,
            "subject": account,
            "time": _iso_text(at),
            "data": data,
        }
        return account.encode(), json.dumps(event).encode()

    def _account(self) -> str:
        return self._random.choice(self._accounts)

    def _new_id(self) -> str:
        self._count += 1
        return f"id-{self._count}"


def _iso_text(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds")
