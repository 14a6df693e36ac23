"""A random history from a seed: some forty accounts over fourteen months.

It has everything that is awkward about calendars and billing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle.oracle import EPOCH, MILLISECOND, Arrival, boundary, next_boundary
from tests.oracle.rate_card import PLANS, RATES

BEGIN = datetime(2025, 1, 27, tzinfo=UTC)
MONTHS = 14

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "America/Santiago",
]

# Local times at which the clocks of some zone change on some day of the history, and odd times.
ODD_TIMES = [
    "00:00:00",
    "00:30:00",
    "02:00:00",
    "02:10:00",
    "02:30:00",
    "01:45:00",
    "23:59:59.999",
    "12:00:00",
    "05:45:10.250",
    "03:15:00",
]

# Anchors whose later renewals fall into a gap or occur twice. In 2025 that is 30 March and 26
# October in Berlin, and 9 March and 2 November in New York. It is 6 April and 5 October on Lord
# Howe Island, and 6 April and 7 September in Santiago.
CLOCK_CHANGES = [
    ("Europe/Berlin", "2025-01-30T02:30:00"),
    ("Europe/Berlin", "2025-02-26T02:30:00"),
    ("America/New_York", "2025-02-09T02:30:00"),
    ("America/New_York", "2025-02-02T01:30:00"),
    ("Australia/Lord_Howe", "2025-02-05T02:10:00"),
    ("Australia/Lord_Howe", "2025-02-06T01:45:00"),
    ("America/Santiago", "2025-02-07T00:00:00"),
    ("America/Santiago", "2025-02-05T23:30:00"),
]


# The actions of an account, and how often each occurs.
_WEIGHTS = {
    "use": 24,
    "burst": 13,
    "change": 7,
    "subscribe": 3,
    "cancel": 3,
    "cancel_now": 1.5,
    "come_back": 2,
    "reversal": 1.5,
    "grant": 6,
    "void": 6,
    "void_first": 2,
    "repeat": 4,
    "reuse": 2,
    "late": 6,
    "late_account_event": 2,
    "ahead": 2,
    "unknown": 3,
}


@dataclass(frozen=True)
class _Line:
    """A line, the time at which it is sent, and the time of its event."""

    sent_at: datetime
    value: bytes
    time: datetime | None


@dataclass(frozen=True)
class History:
    """Lines in the order of sending.

    ``names`` are the accounts, and ``moments`` the times to compare balances at, by account.
    """

    arrivals: list[Arrival]
    names: list[str]
    moments: dict[str, list[datetime]]

    def ndjson(self) -> bytes:
        return b"".join(arrival.value + b"\n" for arrival in self.arrivals)


def generate(
    seed: int,
    *,
    accounts: int = 40,
    events: int = 70,
    dated_by_log: bool = False,
    end: datetime | None = None,
) -> History:
    """Generate a history.

    Its records have their events' own times, as in an import. With ``dated_by_log`` they have the
    times at which they were sent.
    """
    rng = random.Random(seed)
    names = [f"acct_{seed}_{number:02d}" for number in range(accounts)]
    sent: list[_Line] = []
    moments = {}
    for number, name in enumerate(names):
        made = _AccountsHistory(rng, name, number, events)
        sent += made.sent
        moments[name] = made.moments
    sent += _malformed(rng, names)
    if end is not None:
        sent = [line for line in sent if line.sent_at < end]
    sent.sort(key=lambda line: line.sent_at)
    arrivals, last_ms = [], 0
    for line in sent:
        if line.time is not None or dated_by_log:
            at = line.sent_at if dated_by_log or line.time is None else line.time
            last_ms = (at - EPOCH) // MILLISECOND
        arrivals.append(Arrival(line.value, last_ms))
    return History(arrivals, names, moments)


class _AccountsHistory:
    """One account's events.

    It changes plans without regard to what is allowed, because refusals are wanted too.
    """

    def __init__(self, rng: random.Random, name: str, number: int, events: int) -> None:
        self._rng = rng
        self._name = name
        self._ids = 0
        self.sent: list[_Line] = []
        self.moments: list[datetime] = []
        self._uses: list[tuple[datetime, str, str]] = []
        self._made: list[tuple[datetime, dict[str, Any]]] = []
        zone, start = self._first_subscription(number)
        self._begin(number, zone, start)
        finish = BEGIN + timedelta(days=30.5 * MONTHS)
        self._cycle = (start, zone)
        for _ in range(rng.randint(events // 2, events)):
            self._do_something(self._moment(start, finish))
        self._every_rate(start, finish)
        self.moments += [boundary(start, zone, month) for month in range(MONTHS)]

    def _first_subscription(self, number: int) -> tuple[str, datetime]:
        if number < len(CLOCK_CHANGES):
            zone, local = CLOCK_CHANGES[number]
        else:
            zone = ZONES[number % len(ZONES)]
            day = self._rng.choice(
                [
                    "2025-01-28",
                    "2025-01-29",
                    "2025-01-30",
                    "2025-01-31",
                    "2025-03-31",
                    "2025-05-30",
                    "2025-08-31",
                ]
            )
            local = f"{day}T{self._rng.choice(ODD_TIMES)}"
        return zone, datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)

    def _begin(self, number: int, zone: str, start: datetime) -> None:
        rng = self._rng
        if number % 8 == 7:
            anchor = start - timedelta(days=rng.choice([3, 40, 100]))
            data = {
                "plan": rng.choice(PLANS),
                "anchor": _iso_text(anchor),
                "time_zone": zone,
                "used": str(rng.choice([0, "40.5", 250])),
            }
            as_of = rng.choice(
                [{}, {"as_of": _iso_text(start)}, {"as_of": _iso_text(start - timedelta(days=2))}]
            )
            self._account(
                "account.opened",
                start,
                {**data, "free_used": rng.choice(["0", "150", "200"]), **as_of},
            )
            for hours in (1, 30):  # the opening figures include uses from before the opening
                self._usage(
                    start + timedelta(hours=2), start - timedelta(hours=hours), self._any_use()
                )
            return
        for _ in range(rng.choice([0, 0, 1, 4, 14])):
            self._use(start - timedelta(minutes=rng.randint(1, 3 * 1440)))
        if number % 9 != 8:
            data = {
                "plan": rng.choice(PLANS[1:4]),
                **({} if zone == "UTC" and rng.random() < 0.5 else {"time_zone": zone}),
            }
            self._account("account.subscribed", start, data)

    def _moment(self, start: datetime, finish: datetime) -> datetime:
        """Any time, but often close to a renewal: at it, just before, just after, or 72 h after."""
        rng = self._rng
        if rng.random() < 0.45:
            at = boundary(*self._cycle, rng.randint(1, MONTHS - 1))
            at += (
                rng.choice(
                    [
                        0,
                        0,
                        -1,
                        1,
                        1000,
                        -1000,
                        60_000,
                        -3_600_000,
                        3_600_000,
                        72 * 3_600_000 - 1,
                        72 * 3_600_000,
                    ]
                )
                * MILLISECOND
            )
            if start <= at < finish:
                return at
        return start + rng.randint(0, (finish - start) // MILLISECOND) * MILLISECOND

    def _renewal_near(self, at: datetime) -> datetime:
        """The first renewal after that time by the account's latest cycle."""
        return next_boundary(*self._cycle, at)

    def _do_something(self, at: datetime) -> None:
        what = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        self.moments.append(at)
        getattr(self, f"_{what}")(at)

    # The actions of an account

    def _burst(self, at: datetime) -> None:
        """Enough uses to reach a limit, in a few steps."""
        for _ in range(self._rng.randint(2, 6)):
            at += timedelta(seconds=self._rng.randint(0, 600))
            seconds = self._rng.choice(["5", "7.25", "10", "12.5", "20", "60"])
            self._usage(at, at, {"feature": "prompt_to_video", "quantity": seconds})

    def _use(self, at: datetime) -> None:
        at += timedelta(microseconds=self._rng.choice([0, 0, 0, 0, 1, 999]))
        self._usage(at, at, self._any_use())

    def _any_use(self) -> dict[str, Any]:
        feature = self._rng.choice(sorted(RATES))
        return self._use_of(feature, self._rng.choice(sorted(RATES[feature], key=str)))

    def _use_of(self, feature: str, model: str | None) -> dict[str, Any]:
        quantity = self._rng.choice(
            ["1", 1, "1", "2", 3, "0", "0.000001", "1.5", "2.000001", "12.250000", 7, "0.5"]
        )
        return {
            "feature": feature,
            **({} if model is None and self._rng.random() < 0.5 else {"model": model}),
            "quantity": quantity,
        }

    def _change(self, at: datetime) -> None:
        self._account(
            "account.plan_changed",
            at,
            {
                "plan": self._rng.choice(
                    [*PLANS[1:4] * 3, "scale_2x", "scale_4x", "free", "platinum"]
                )
            },
        )

    def _reversal(self, at: datetime) -> None:
        """A downgrade, a cancellation or an upgrade, and another soon after."""
        for _ in range(self._rng.randint(2, 3)):
            if self._rng.random() < 0.7:
                self._change(at)
            else:
                self._rng.choice([self._cancel, self._subscribe])(at)
            at += timedelta(minutes=self._rng.randint(0, 3000))

    def _subscribe(self, at: datetime) -> None:
        rng = self._rng
        data: dict[str, Any] = {
            "plan": rng.choice([*PLANS[1:], "free"]),
            "time_zone": rng.choice([*ZONES, "Mars/Olympus"]),
        }
        if rng.random() < 0.3:
            data["anchor"] = _iso_text(
                at
                + rng.choice(
                    [
                        timedelta(days=rng.randint(-70, 70)),
                        timedelta(minutes=4),
                        timedelta(minutes=6),
                    ]
                )
            )
        self._account("account.subscribed", at, data)
        if data["time_zone"] in ZONES and self._rng.random() < 0.5:
            self._cycle = (at, data["time_zone"])

    def _cancel(self, at: datetime) -> None:
        self._account("account.cancelled", at, self._rng.choice([{}, {"effective": "period_end"}]))

    def _cancel_now(self, at: datetime) -> None:
        self._account("account.cancelled", at, {"effective": "now"})

    def _come_back(self, at: datetime) -> None:
        self._cancel_now(at)
        back = at + self._rng.choice(
            [timedelta(0), MILLISECOND, timedelta(hours=1), timedelta(days=3), timedelta(days=40)]
        )
        if self._rng.random() < 0.5:
            self._burst(at + (back - at) / 2)
        self._subscribe(back)

    def _grant(self, at: datetime) -> None:
        rng = self._rng
        expires: datetime | None = None
        if rng.random() < 0.7:
            near = self._renewal_near(at)
            expires = rng.choice(
                [
                    at + timedelta(hours=rng.randint(-2, 900)),
                    near,
                    near + timedelta(hours=rng.randint(-400, 400)),
                ]
            )
            self.moments.append(expires)
        credits = rng.choice(["25", "0.5", 40, "100.25", "150"])
        given = (
            {}
            if expires is None and rng.random() < 0.5
            else {"expires_at": None if expires is None else _iso_text(expires)}
        )
        self._account(
            "credits.granted",
            at,
            {"credits": credits, "reason": "a render came out black", **given},
        )
        if rng.random() < 0.7:
            self._burst(at + timedelta(minutes=rng.randint(0, 2000)))

    def _void(self, at: datetime) -> None:
        if self._uses:
            near = sorted(self._uses, key=lambda use: abs(at - use[0]))[:6]
            used_at, source, id_ = self._rng.choice(near)
            if self._rng.random() < 0.6:
                at = used_at + timedelta(
                    minutes=self._rng.choice([0, 1, 60, 1440, 4319, 4321, 10_000, 45_000, 51_000])
                )
            self._account(
                "usage.voided",
                at,
                {"source": source, "id": id_, "reason": "the video never arrived"},
            )

    def _void_first(self, at: datetime) -> None:
        self._ids += 1
        id_ = f"gen-{self._ids}"
        self._account("usage.voided", at, {"source": "/render", "id": id_})
        at += self._rng.choice(
            [timedelta(0), MILLISECOND, timedelta(hours=2), timedelta(days=30), timedelta(days=36)]
        )
        event = self._event("usage.recorded", at, self._any_use(), source="/render", id_=id_)
        self._send(at, at, event)

    def _repeat(self, at: datetime) -> None:
        """The same event again, soon or after a month.

        It has another time or worker, or is the same to the byte.
        """
        if not self._made:
            return
        made_at, event = self._rng.choice(self._made)
        event = json.loads(json.dumps(event))
        again_at = made_at + timedelta(
            minutes=self._rng.choice([0, 1, 300, 40_000, 50_395, 50_405, 50_500, 60_000])
        )
        if event["type"] == "usage.recorded" and self._rng.random() < 0.5:
            event["time"] = _iso_text(again_at)
            event["data"]["dimensions"] = {"worker": "another"}
            self._send(again_at, again_at, event)
        else:
            self._send(again_at, made_at, event)

    def _reuse(self, at: datetime) -> None:
        """The same identity with other content."""
        if not self._made:
            return
        made_at, event = self._rng.choice(self._made)
        event = json.loads(json.dumps(event))
        again_at = made_at + timedelta(minutes=self._rng.choice([0, 1, 300, 40_000]))
        event["time"] = _iso_text(again_at)
        if event["type"] == "usage.recorded":
            event["data"]["quantity"] = "99"
        else:
            event["type"], event["data"] = (
                "credits.granted",
                {"credits": "3.25", "reason": "reused"},
            )
        self._send(again_at, again_at, event)

    def _late(self, at: datetime) -> None:
        """A use that is reported hours, days or weeks later, often just after a renewal."""
        hours = self._rng.choice([1, 20, 71, 73, 100, 500, 839, 840, 841, 1200])
        if self._rng.random() < 0.5:
            after = self._rng.choice(
                [timedelta(hours=hours) for hours in (1, 50, 72, 73)]
                + [timedelta(hours=72) - MILLISECOND] * 2
            )
            at = self._renewal_near(at) + after
            hours = self._rng.choice([2, 60, 74, 80])
        data = (
            self._any_use()
            if self._rng.random() < 0.5
            else {"feature": "prompt_to_video", "quantity": self._rng.choice(["4", "30"])}
        )
        self._usage(
            at, at - timedelta(hours=hours) - self._rng.choice([timedelta(0), MILLISECOND]), data
        )

    def _late_account_event(self, at: datetime) -> None:
        """A subscription, a change, a cancellation or a grant that is reported late.

        It is reported hours or weeks after it was made.
        """
        do = self._rng.choice(
            [self._subscribe, self._change, self._cancel, self._cancel_now, self._grant]
        )
        before = len(self.sent)
        do(at)
        late = timedelta(hours=self._rng.choice([1, 30, 71, 73, 400, 800]))
        self.sent[before:] = [
            _Line(line.sent_at + late, line.value, line.time) for line in self.sent[before:]
        ]
        self._use(at + late / 2)

    def _ahead(self, at: datetime) -> None:
        if self._rng.random() < 0.5:  # by its own clock, already in the next period
            at = self._renewal_near(at) - timedelta(seconds=20)
        ahead = self._rng.choice(
            [
                timedelta(seconds=30),
                timedelta(minutes=5),
                timedelta(minutes=5, milliseconds=1),
                timedelta(days=2),
            ]
        )
        if self._rng.random() < 0.7:
            self._usage(at, at + ahead, self._any_use())
        else:
            event = self._event(
                "credits.granted", at + ahead, {"credits": "10", "reason": "sent early"}
            )
            self._send(at, at + ahead, event)

    def _unknown(self, at: datetime) -> None:
        data: dict[str, Any] = self._rng.choice(
            [
                {"feature": "genai_video", "model": "veo_9", "quantity": "1"},
                {"feature": "genai_hologram", "model": None, "quantity": "1"},
                {"feature": "genai_image", "quantity": "1"},
                {"feature": "ai_edit", "model": "veo_3", "quantity": "1"},
            ]
        )
        self._usage(at, at, data)

    def _every_rate(self, start: datetime, finish: datetime) -> None:
        """Use ten random rates. All accounts together use every rate many times."""
        rates = [
            (feature, model)
            for feature in sorted(RATES)
            for model in sorted(RATES[feature], key=str)
        ]
        for feature, model in self._rng.sample(rates, 10):
            at = self._moment(start, finish)
            self._usage(at, at, self._use_of(feature, model))

    # Sending

    def _usage(self, sent_at: datetime, at: datetime, data: dict[str, Any]) -> None:
        event = self._event(
            "usage.recorded", at, data, source=self._rng.choice(["/render", "/image", "/chat"])
        )
        self._uses.append((at, event["source"], event["id"]))
        self._made.append((at, event))
        self._send(sent_at, at, event)

    def _account(self, type_: str, at: datetime, data: dict[str, Any]) -> None:
        event = self._event(type_, at, data, source="/billing")
        self._made.append((at, event))
        self._send(at, at, event)

    def _event(
        self,
        type_: str,
        at: datetime,
        data: dict[str, Any],
        source: str = "/billing",
        id_: str | None = None,
    ) -> dict[str, Any]:
        if id_ is None:
            self._ids += 1
            id_ = f"gen-{self._ids}"
        return {
            "specversion": "1.0",
            "type": type_,
            "id": id_,
            "source": source,
            "subject": self._name,
            "time": _iso_text(at),
            "data": data,
        }

    def _send(self, sent_at: datetime, at: datetime, event: dict[str, Any]) -> None:
        self.sent.append(_Line(sent_at, json.dumps(event).encode(), at))


def _malformed(rng: random.Random, names: list[str]) -> list[_Line]:
    """Lines that are not events. Those with an account and a time are sent like events."""
    lines = []
    data = {"feature": "ai_edit", "quantity": "1"}
    good = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": "bad",
        "source": "/render",
        "data": data,
    }
    for _ in range(40):
        at = BEGIN + timedelta(minutes=rng.randint(60_000, 600_000))
        event: dict[str, Any] = {**good, "subject": rng.choice(names), "time": _iso_text(at)}
        breach: dict[str, Any] = rng.choice(
            [
                {"data": {"feature": "ai_edit", "quantity": "-1"}},
                {"data": {"feature": "ai_edit", "quantity": 1.5}},
                {"data": {"feature": "ai_edit", "quantity": "1.1234567"}},
                {"data": {"feature": "ai_edit"}},
                {"specversion": "0.3"},
                {"id": ""},
                {"type": "usage.recalled"},
                {"type": "credits.granted", "data": {"credits": "0", "reason": "nothing"}},
                {"type": "account.cancelled", "data": {"effective": "someday"}},
            ]
        )
        lines.append(_Line(at, json.dumps({**event, **breach}).encode(), at))
    without_zone = json.dumps({**good, "subject": names[0], "time": "2025-06-01T10:00:00"}).encode()
    for text in (b"not json", b"[]", b"{}", b'{"specversion":"1.0"', b"42", without_zone):
        lines.append(_Line(BEGIN + timedelta(minutes=rng.randint(60_000, 600_000)), text, None))
    return lines


def _iso_text(at: datetime) -> str:
    return at.isoformat(
        timespec="microseconds" if at.microsecond % 1000 else "milliseconds"
    ).replace("+00:00", "Z")
