"""Random inputs: valid events of every type at the ledger's time, and mutations of them."""

from __future__ import annotations

import copy
import json
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

from tests.fuzz.mutating import VALUES, mutation_of
from tests.fuzz.partition import InputRecord, key_of
from usageledger.contracts.examples import examples
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.entry import Topic
from usageledger.ledger.timestamps import time_of
from usageledger.sdk.producer.events import format_time

BEGIN_MS = 1_795_000_000_000
_DAY_MS = 86_400_000
_ACCOUNT_TYPES = (
    *("account.opened", "account.subscribed", "account.plan_changed", "account.cancelled"),
    *(
        "account.suspended",
        "account.resumed",
        "account.thresholds_set",
        "credits.granted",
        "usage.voided",
    ),
)
_MODELS = (
    *(
        ("genai_video", "veo_3"),
        ("genai_video", "veo_2"),
        ("genai_image", "imagen_3"),
        ("genai_music", "udio"),
    ),
    *(("chat_message", None), ("chat_action", None), ("ai_edit", None), ("genai_video", None)),
)


def random_inputs(rng: random.Random, count: int) -> Iterator[InputRecord]:
    """A catalog, then ``count`` inputs of the usage and account topics.

    There is a mutated catalog among them now and then.
    """
    source = _Source(rng)
    yield InputRecord("catalog", BEGIN_MS, None, source.catalog)
    for _ in range(count):
        if rng.random() < 0.001:
            yield InputRecord("catalog", source.now_ms, None, mutation_of(source.catalog, rng))
        yield source.next()


class _Source:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._templates = {type_: found[0] for type_, found in examples().items()}
        self._recent: deque[tuple[Topic, bytes]] = deque(maxlen=200)
        self._count = 0
        self.now_ms = BEGIN_MS
        document = {**catalog_document(load_shipped_catalog()), "version": "fuzzed"}
        self.catalog = json.dumps(
            {**self._templates["catalog.published"], "id": "fuzzed", "data": document}
        ).encode()

    def next(self) -> InputRecord:
        rng = self._rng
        self._count += 1
        self.now_ms += (
            rng.choice([0, 1, 50, 1_000, 60_000])
            if rng.random() < 0.999
            else rng.randrange(2 * _DAY_MS)
        )
        topic, value = self._again() if self._recent and rng.random() < 0.15 else self._new()
        if rng.random() < 0.5:
            for _ in range(rng.choice([1, 1, 2, 3])):
                value = mutation_of(value, rng)
        key = key_of(value, rng)
        if rng.random() < 0.02:
            topic = rng.choice(["usage", "account"])
        empty = rng.random() < 0.003
        return InputRecord(
            topic, self._timestamp_ms(), key, rng.choice([None, b""]) if empty else value
        )

    def _timestamp_ms(self) -> int:
        return (
            self.now_ms
            if self._rng.random() < 0.98
            else self._rng.choice([-1, 0, -(2**63), self.now_ms - self._rng.randrange(_DAY_MS)])
        )

    def _again(self) -> tuple[Topic, bytes]:
        """A recent event again, as it was or with other content under its identity."""
        topic, value = self._rng.choice(self._recent)
        if self._rng.random() < 0.2:
            value = value.replace(b'"quantity": "1"', b'"quantity": "7"').replace(
                b'"plan": "pro"', b'"plan": "max"'
            )
        return topic, value

    def _new(self) -> tuple[Topic, bytes]:
        rng = self._rng
        is_usage = rng.random() < 0.7
        type_ = "usage.recorded" if is_usage else rng.choice(_ACCOUNT_TYPES)
        event = copy.deepcopy(self._templates[type_])
        event |= {
            "id": f"{type_}_{self._count}",
            "subject": f"acct_{rng.randrange(300)}",
            "time": self._time(2),
        }
        self._vary(type_, event["data"])
        topic: Topic = "usage" if is_usage else "account"
        value = json.dumps(event).encode()
        self._recent.append((topic, value))
        return topic, value

    def _vary(self, type_: str, data: dict[str, Any]) -> None:
        rng = self._rng
        if type_ == "usage.recorded":
            data["feature"], data["model"] = rng.choice(_MODELS)
            data["quantity"] = rng.choice(["1", "1", "2.5", "0", "1000000", 3])
        elif type_ == "usage.voided":
            _, value = rng.choice(self._recent) if self._recent else ("usage", b"{}")
            data["id"] = json.loads(value).get("id", "none")
        elif "plan" in data:
            data["plan"] = rng.choice(["pro", "max", "scale", "scale_2x", "free"])
        for name in ("anchor", "as_of", "expires_at"):
            if name in data:
                data[name] = rng.choice([None, self._time(40), self._time(-40)])
        if "time_zone" in data:
            data["time_zone"] = rng.choice(
                [
                    "UTC",
                    "Europe/Berlin",
                    "Pacific/Apia",
                    rng.choice([v for v in VALUES if isinstance(v, str)]),
                ]
            )

    def _time(self, days: int) -> str:
        """A time up to ``days`` ago, or ahead if ``days`` is negative; mostly a moment ago."""
        ago_ms = (
            self._rng.randrange(1_000)
            if days == 2 and self._rng.random() < 0.8
            else self._rng.randrange(abs(days) * _DAY_MS)
        )
        return format_time(time_of(self.now_ms - (ago_ms if days > 0 else -ago_ms)))
