"""The ledger's entries and refusals as the command line shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import Topic
from usageledger.domain.head import Head
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.log.reading import LogReader
from usageledger.operations.ledger_entries import newest, readable_entry
from usageledger.operations.refusals import (
    CAN_CHANGE,
    refused_inputs,
    resent_records,
    to_send_again,
)

JAN_31 = 1_738_317_600_000
HOUR = 3_600_000


class Ledger:
    """One partition of a ledger, decided as it is written to: an hour between one input and the
    next.
    """

    def __init__(self) -> None:
        self.book = PartitionBook(
            0, 1, Head(ledger="l"), AdoptedCatalogs((load_shipped_catalog(),))
        )
        self.inputs: dict[Topic, list[Record]] = {"usage": [], "account": []}
        self.entries: list[SealedEntry] = []
        self.now_ms = JAN_31

    def take(self, topic: Topic, value: bytes, key: bytes | None = b"acct_1") -> list[SealedEntry]:
        record = Record(len(self.inputs[topic]), self.now_ms, key, value)
        self.now_ms += HOUR
        self.inputs[topic].append(record)
        decided: list[SealedEntry] = []
        for item in self.book.decode(topic, [record]):
            decided += self.book.decide_input(item)
        self.entries += decided
        return decided

    def use(self, id: str, **data: Any) -> list[SealedEntry]:
        return self.take(
            "usage",
            self.event(
                "usage.recorded",
                id,
                {"feature": "genai_video", "model": "veo_3", "quantity": "1"} | data,
            ),
        )

    def tell(self, kind: str, id: str, **data: Any) -> list[SealedEntry]:
        return self.take("account", self.event(kind, id, data))

    def event(self, kind: str, id: str, data: dict[str, Any]) -> bytes:
        time = f"2025-01-31T{10 + (self.now_ms - JAN_31) // HOUR:02d}:00:00Z"
        header = {
            "specversion": "1.0",
            "type": kind,
            "id": id,
            "source": "/s",
            "subject": "acct_1",
            "time": time,
        }
        return json.dumps(header | {"data": data}).encode()


class Topic0(LogReader):
    """A reader of what a `Ledger` has been told."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def read(self, topic: str, partition: int, start: int, stop: int) -> Iterator[Record]:
        name: Topic = "usage" if topic.startswith("usage") else "account"
        return iter(self._ledger.inputs[name][start:stop])

    def start_offset(self, topic: str, partition: int) -> int:
        return 0

    def end_offset(self, topic: str, partition: int) -> int:
        return max(len(records) for records in self._ledger.inputs.values())


def test_every_amount_of_an_entry_is_shown_in_credits() -> None:
    ledger = Ledger()
    ledger.tell("account.subscribed", "s1", plan="pro")
    ledger.tell(
        "credits.granted", "g1", credits="12.5", reason="sorry", expires_at="2025-02-10T00:00:00Z"
    )
    (used,) = ledger.use("u1", quantity="6")
    shown = readable_entry(used)
    assert shown["credits"] == "192"
    assert shown["rate"]["credits"] == "32"
    assert shown["before"] == {
        "allotment": "200",
        "granted": "12.5",
        "used": "0",
        "remaining": "212.5",
    }
    assert shown["after"] == {
        "allotment": "200",
        "granted": "12.5",
        "used": "192",
        "remaining": "20.5",
    }
    assert (
        shown["crossings"][0]["figures"]["used"],
        shown["crossings"][0]["upgrade"]["allotment"],
    ) == ("192", "500")
    assert (shown["hash"], shown["offset"], shown["input"]["offset"]) == (
        used.hash,
        used.entry.offset,
        0,
    )
    json.dumps(shown)


def test_amounts_deep_in_a_change_of_plan_are_shown_in_credits() -> None:
    ledger = Ledger()
    ledger.tell("account.subscribed", "s1", plan="pro")
    ledger.tell("credits.granted", "g1", credits="12.5", reason="sorry")
    ledger.use("u1", quantity="7")
    (cancelled,) = ledger.tell("account.cancelled", "c1", effective="now")
    change = readable_entry(cancelled)["plan_change"]
    assert change["settled"] == [["/s", "g1", "12.5"]]
    assert change["opens"]["allotment"] == "200"


def test_an_entry_that_charges_nothing_says_so() -> None:
    ledger = Ledger()
    ledger.use("u1")
    (duplicate,) = ledger.use("u1")
    assert readable_entry(duplicate)["credits"] == "0"


def test_the_newest_entries_come_in_the_ledgers_order() -> None:
    ledger = Ledger()
    for id in ("u1", "u2", "u3"):
        ledger.use(id)
    assert [sealed.entry.offset for sealed in newest(reversed(ledger.entries), 2)] == [2, 3]


def test_a_refused_input_is_shown_with_its_place_and_reason() -> None:
    ledger = Ledger()
    ledger.use("u1")
    ledger.take("usage", b"not json", key=None)
    ledger.use("u2", model="veo_9")
    not_json, unknown = refused_inputs(ledger.entries)
    assert (not_json.reason, not_json.account, not_json.place, not_json.entry, not_json.event) == (
        "not_json",
        "",
        "usage 0-1",
        "0-2",
        None,
    )
    assert (unknown.reason, unknown.account, unknown.place, unknown.model) == (
        "unknown_model",
        "acct_1",
        "usage 0-2",
        "veo_9",
    )


def test_a_refused_event_that_is_accepted_later_is_resolved() -> None:
    ledger = Ledger()
    ledger.use("u1", model="veo_9")
    ledger.use("u2", model="veo_9")
    ledger.use("u1")
    assert [refusal.is_resolved for refusal in refused_inputs(ledger.entries)] == [True, False]


def test_only_what_can_fare_better_is_sent_again_and_each_event_once() -> None:
    ledger = Ledger()
    ledger.use("u1", model="veo_9")
    ledger.use("u1", model="veo_9")
    ledger.take("usage", b"not json", key=None)
    ledger.use("u2", model="veo_9")
    ledger.use("u2")
    ledger.tell("account.subscribed", "s1", plan="platinum")
    chosen = to_send_again(refused_inputs(ledger.entries), CAN_CHANGE)
    assert [(refusal.input.topic, refusal.input.offset) for refusal in chosen] == [
        ("usage", 0),
        ("account", 0),
    ]


def test_a_reason_that_is_asked_for_is_sent_again_whatever_it_is() -> None:
    ledger = Ledger()
    ledger.take("usage", b"not json", key=None)
    assert len(to_send_again(refused_inputs(ledger.entries), ["not_json"])) == 1


def test_a_refused_record_is_sent_again_unchanged_and_under_its_own_time_while_history_is_imported() -> (
    None
):
    ledger = Ledger()
    ledger.use("u0")
    ledger.use("u1", model="veo_9")
    chosen = to_send_again(refused_inputs(ledger.entries), CAN_CHANGE)
    (imported,) = resent_records(Topic0(ledger), "", chosen, partition_count=1, importing=True)
    (live,) = resent_records(Topic0(ledger), "", chosen, partition_count=1, importing=False)
    assert (imported.input, imported.key, imported.value) == (
        "usage",
        b"acct_1",
        ledger.inputs["usage"][1].value,
    )
    assert (imported.timestamp_ms, live.timestamp_ms) == (JAN_31 + HOUR, None)
