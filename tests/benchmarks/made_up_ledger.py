"""A random ledger partition from a seed, which the real `PartitionBook` decides.

It is bytes, as a catch-up reads them. It has some thousands of accounts over a hundred days, and a
few of them use most. There are uses, repeats, refusals, voids, grants and plan changes, and the
renewals and expiries that fall due.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.chain import SealedEntry
from usageledger.domain.claim import claim_of, encode_claim
from usageledger.domain.entry import Topic
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import KeyedValue, Record
from usageledger.ledger.timestamps import milliseconds, time_of
from usageledger.log.memory import MemoryLog
from usageledger.processor.catalog_log import CatalogLog

LEDGER_ID = "made-up"
ACCOUNTS = 5_000
DAYS = 100
CLAIMS = 20
BEGIN_MS = milliseconds(datetime(2026, 1, 1, tzinfo=UTC))

MODELS = [
    ("genai_video", "veo_3"),
    ("genai_video", "ray_2"),
    ("genai_image", "imagen_3"),
    ("chat_message", None),
    ("chat_action", None),
]
PLANS = ["pro", "max", "scale", "scale_2x", "scale_4x"]
_WEIGHTS = {
    "use": 900,
    "repeat": 40,
    "unknown": 10,
    "malformed": 2,
    "void": 8,
    "grant": 8,
    "subscribe": 16,
    "change": 10,
    "cancel": 6,
}


@dataclass(slots=True)
class MadeUpLedger:
    """The log of one partition, its adopted catalogs, and the book that decided it.

    A view that is caught up from the log has to equal the book.
    """

    log: MemoryLog = field(default_factory=MemoryLog)
    catalogs: CatalogLog = field(default_factory=CatalogLog)
    book: PartitionBook = field(
        default_factory=lambda: PartitionBook(0, 1, Head(ledger=LEDGER_ID), AdoptedCatalogs())
    )
    kinds: Counter[str] = field(default_factory=Counter)
    claims: list[int] = field(default_factory=list)
    """The offsets of the claims: one at the beginning, one at the end, some between."""

    def claim(self) -> None:
        self.claims.append(
            self.log.append_as_another(
                KeyedValue(None, encode_claim(claim_of(0, LEDGER_ID, "made-up")))
            )
        )
        self.book.head = replace(self.book.head, next_offset=self.log.end_offset)

    def keep(self, sealed: list[SealedEntry]) -> None:
        self.log.append_as_another(
            *(KeyedValue(item.entry.account.encode() or None, item.value) for item in sealed)
        )
        self.kinds.update(item.entry.kind for item in sealed)

    @property
    def entries(self) -> int:
        return self.kinds.total()


def make_ledger(entries: int, *, accounts: int = ACCOUNTS, seed: int = 20261125) -> MadeUpLedger:
    """Decide a random history until it has ``entries`` entries."""
    made = MadeUpLedger()
    made.claim()
    catalog = _catalog_record()
    made.catalogs.put([catalog])
    made.keep(made.book.adopt(catalog))
    for topic, record in _inputs(random.Random(seed), accounts, DAYS * 86_400_000 // entries):
        (item,) = made.book.decode(topic, [record])
        while (due := made.book.due.next()) is not None and due[0] <= item.appended_at:
            made.keep(made.book.decide_due(due[1], due[0]))
        made.keep(made.book.decide_input(item))
        if made.entries * CLAIMS >= entries * len(made.claims):
            made.claim()
        if made.entries >= entries:
            return made
    raise AssertionError("the inputs have no end")


def _inputs(rng: random.Random, accounts: int, step_ms: int) -> Iterator[tuple[Topic, Record]]:
    """Records of both inputs in the order of their timestamps, without end."""
    offsets: dict[Topic, int] = {"usage": 0, "account": 0}
    used: list[tuple[str, dict[str, Any]]] = []
    now_ms = BEGIN_MS
    while True:
        now_ms += rng.randint(0, 2 * step_ms)
        what = rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        # With the cube, an eighth of the accounts has half of all events.
        account = f"acct_{int(accounts * rng.random() ** 3):05d}"
        account, type_, data, event_id = _next_event(rng, what, account, offsets, used)
        event = {
            "specversion": "1.0",
            "type": type_,
            "id": event_id,
            "source": "/render" if type_ == "usage.recorded" else "/billing",
            "subject": account,
            "time": time_of(now_ms - rng.randint(0, 5_000)).isoformat(),
            "datacontenttype": "application/json",
            "data": data,
        }
        if what == "use":
            used = [*used[-99:], (account, {"id": event_id, **data})]
        topic: Topic = "usage" if type_ == "usage.recorded" else "account"
        value = b"{" if what == "malformed" else json.dumps(event).encode()
        yield topic, Record(offsets[topic], now_ms, account.encode(), value)
        offsets[topic] += 1


def _next_event(
    rng: random.Random,
    what: str,
    account: str,
    offsets: dict[Topic, int],
    used: list[tuple[str, dict[str, Any]]],
) -> tuple[str, str, dict[str, Any], str]:
    """The account, type, data and id of the next event.

    A repeat or a void has the account of the earlier use.
    """
    if what in ("repeat", "void") and used:
        account, earlier = rng.choice(used)
        if what == "repeat":
            return (
                account,
                "usage.recorded",
                {name: value for name, value in earlier.items() if name != "id"},
                earlier["id"],
            )
        return (
            account,
            "usage.voided",
            {"source": "/render", "id": earlier["id"], "reason": "failed"},
            f"void_{offsets['account']:09d}",
        )
    event_id = f"billing_{offsets['account']:09d}"
    if what == "grant":
        return (
            account,
            "credits.granted",
            {"credits": str(rng.randint(1, 200)), "reason": "support"},
            event_id,
        )
    if what in ("subscribe", "change"):
        return (
            account,
            "account.subscribed" if what == "subscribe" else "account.plan_changed",
            {"plan": rng.choice(PLANS)},
            event_id,
        )
    if what == "cancel":
        return account, "account.cancelled", {"effective": "period_end"}, event_id
    feature, model = ("telepathy", None) if what == "unknown" else rng.choice(MODELS)
    dimensions = {"project": f"p_{rng.randrange(100)}", "worker": f"eu-1/{rng.randrange(8)}"}
    data = {
        "feature": feature,
        "model": model,
        "quantity": str(rng.randint(1, 3)),
        "hold_id": None,
        "dimensions": dimensions,
    }
    return account, "usage.recorded", data, f"gen_{offsets['usage']:012d}"


def _catalog_record() -> Record:
    document = catalog_document(load_shipped_catalog())
    event = {
        "specversion": "1.0",
        "type": "catalog.published",
        "id": document["version"],
        "source": "/catalog",
        "data": document,
    }
    return Record(0, BEGIN_MS, None, json.dumps(event).encode())
