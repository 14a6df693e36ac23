"""A partition's decisions in progress: needed accounts, changes, and due accounts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tests.notation import SHIPPED, Partition
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog
from usageledger.domain.encoding import encode
from usageledger.domain.head import Head
from usageledger.domain.identity import Namespace, identity_of, window_of
from usageledger.ledger.due_list import DueList
from usageledger.ledger.partition_book import PartitionBook, Undecidable, needed_to_fold
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import milliseconds, time_of

AT = datetime(2026, 3, 1, tzinfo=UTC)


def _book(catalogs: AdoptedCatalogs = SHIPPED) -> PartitionBook:
    return PartitionBook(0, 1, Head(ledger="ledger"), catalogs)


def _record(offset: int, at: datetime | int, account: str = "a", **fields: Any) -> Record:
    timestamp_ms = at if isinstance(at, int) else milliseconds(at)
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": f"gen_{offset}",
        "source": "/render",
        "subject": account,
        "time": time_of(timestamp_ms).isoformat(),
        "data": {"feature": "chat_action", "quantity": 1},
        **fields,
    }
    return Record(offset, timestamp_ms, account.encode(), json.dumps(event).encode())


def test_the_ledgers_time_never_decreases() -> None:
    book = _book()
    records = [
        _record(0, AT),
        _record(1, AT - timedelta(hours=1)),
        _record(2, AT + timedelta(hours=1)),
        _record(3, -1),
    ]
    times = [item.appended_at for item in book.decode("usage", records)]
    assert times == [AT, AT, AT + timedelta(hours=1), AT + timedelta(hours=1)]
    for item in book.decode("usage", records):
        book.decide_input(item)
    assert (
        book.decode("usage", [_record(4, AT)])[0].appended_at
        == AT + timedelta(hours=1)
        == book.head.clock
    )


@pytest.mark.parametrize("timestamp_ms", [-(2**63), -1, 0, 2**53, 2**63 - 1])
def test_any_timestamp_is_a_time_that_the_rules_can_compute_with(timestamp_ms: int) -> None:
    assert 1970 <= time_of(timestamp_ms).year <= 2999


def test_a_record_that_is_no_event_is_refused_at_its_address() -> None:
    book = _book()
    (item,) = book.decode("usage", [Record(41, milliseconds(AT), b"a", b"junk")])
    (sealed,) = book.decide_input(item)
    entry = sealed.entry
    assert (entry.kind, entry.reason, entry.account) == ("refusal", "not_json", "a")
    assert entry.input is not None and (
        entry.input.topic,
        entry.input.partition,
        entry.input.offset,
    ) == ("usage", 0, 41)
    assert book.head.usage_next == 42
    assert book.take_changes().accounts == {}


def test_every_entry_of_an_input_names_it() -> None:
    partition = Partition()
    partition.take("2026-01-31T10:00 subscribe pro")
    entries = [sealed.entry for sealed in partition.take("2026-05-01T00:00 use chat_action")]
    assert len(entries) == 4
    assert {(e.input.topic, e.input.offset) for e in entries if e.input is not None} == {
        ("usage", 0)
    }


def test_each_account_and_identity_has_to_be_provided_once() -> None:
    book = _book()
    void: dict[str, Any] = {"type": "usage.voided", "data": {"source": "/render", "id": "gen_0"}}
    usage = book.decode(
        "usage", [_record(0, AT), _record(0, AT), Record(1, 0, b"b", b"junk"), _record(2, AT, "c")]
    )
    voids = book.decode("account", [_record(3, AT, **void)])
    accounts, identities = book.needed_to_decide([*usage, *voids])
    assert accounts == ["a", "c"]
    expected: list[tuple[Namespace, str, str]] = [
        ("usage", "a", "gen_0"),
        ("usage", "c", "gen_2"),
        ("account", "a", "gen_3"),
    ]
    assert identities == [
        (window_of(AT), identity_of(namespace, account, "/render", name))
        for namespace, account, name in expected
    ]


def test_changes_are_returned_once() -> None:
    partition = Partition()
    partition.take("2026-03-01T00:00 use chat_action 300")
    changes = partition.book.take_changes()
    assert (list(changes.accounts), len(changes.identities), changes.due) == (["a"], 1, {})
    assert partition.book.take_changes() == ({}, {}, {}, {})
    partition.take("+1s use chat_action 300 id=use-0")  # a duplicate
    partition.take("+1s use telepathy")  # a refusal
    assert partition.book.take_changes() == ({}, {}, {}, {})


def test_a_use_or_its_duplicate_settles_its_hold_and_a_refusal_does_not() -> None:
    """A retry may have a hold of its own. A refused event may be sent again, and needs its hold."""
    book = _book()
    sent = [
        ("u1", "h1", "veo_3"),
        ("u1", "h2", "veo_3"),
        ("u2", "h3", "nothing_like_it"),
        ("u3", None, "veo_3"),
    ]
    for offset, (id_, hold, model) in enumerate(sent):
        data = {"feature": "genai_video", "model": model, "quantity": "1", "hold_id": hold}
        (item,) = book.decode("usage", [_record(offset, AT, id=id_, data=data)])
        book.decide_input(item)
    changes = book.take_changes()
    assert list(changes.settled_holds) == [("a", "h1", "/render"), ("a", "h2", "/render")]
    assert book.take_changes().settled_holds == {}


def test_a_voids_change_is_its_own_identity_and_that_of_the_usage() -> None:
    partition = Partition()
    partition.take("2026-03-01T00:00 use chat_action id=g")
    partition.book.take_changes()
    (sealed,) = partition.take("+1s void g id=v")
    voided = identity_of("usage", "a", "/test", "g")
    assert set(partition.book.take_changes().identities) == {
        identity_of("account", "a", "/test", "v"),
        voided,
    }
    assert needed_to_fold([sealed]) == (["a"], [(window_of(partition.now), voided)])


def test_folding_entries_makes_the_book_that_deciding_them_made() -> None:
    decided = Partition()
    for line in [
        "2026-01-31T10:00 subscribe pro",
        "+1d use chat_action 200 id=g",
        "+1s void g",
        "+1s void h",
        "+1s use chat_action 250",
        "+1s grant 10 until=2026-04-01T00:00",
        "2026-03-10T00:00 wait",
        "+1s use genai_video/veo_3 id=h",
    ]:
        decided.take(line)
    folded = _book()
    folded.fold(decided.entries)
    assert folded.head == decided.book.head
    assert {name: encode(state) for name, state in folded.accounts.items() if state} == {
        "a": encode(decided.state())
    }
    assert folded.identities == decided.book.identities
    assert folded.due.all() == decided.book.due.all()


def test_an_entry_that_the_code_cannot_fold_is_named() -> None:
    partition = Partition()
    partition.take("2026-03-01T00:00 use chat_action")
    opened, used = partition.entries
    late = used._replace(
        entry=replace(used.entry, is_late=True)
    )  # and the account has no previous period
    with pytest.raises(Undecidable, match="ledger entry 0-1"):
        _book().fold([opened, late])


def _published(version: str, offset: int = 0, **changes: Any) -> Record:
    document = {**catalog_document(load_shipped_catalog()), "version": version, **changes}
    event = {
        "specversion": "1.0",
        "type": "catalog.published",
        "id": version,
        "source": "/catalog",
        "data": document,
    }
    return Record(offset, 0, None, json.dumps(event).encode())


def test_a_catalog_is_adopted_once_and_never_changes() -> None:
    book = _book(AdoptedCatalogs())
    records = [
        _published("one", 0),
        _published("one", 1),
        _published("one", 2, thresholds=["0.5"]),
        Record(3, 0, None, b"junk"),
        _published("two", 4),
    ]
    entries = [sealed.entry for record in records for sealed in book.adopt(record)]
    assert [(entry.kind, entry.reason) for entry in entries] == [
        ("catalog_adopted", None),
        ("duplicate", None),
        ("refusal", "id_reused_with_different_content"),
        ("refusal", "not_json"),
        ("catalog_adopted", None),
    ]
    assert [catalog.version for catalog in book.catalogs] == ["one", "two"]
    assert book.head.catalog_next == 5
    assert {entry.appended_at for entry in entries} == {book.head.clock}


def test_decisions_see_adopted_catalogs_only() -> None:
    book = _book(AdoptedCatalogs())
    (item,) = book.decode("usage", [_record(0, AT)])
    with pytest.raises(Undecidable, match="no catalog"):
        book.decide_input(item)


def test_the_soonest_is_due_first_and_of_one_moment_the_first_by_name() -> None:
    due = DueList()
    for account, minutes in [("c", 2), ("b", 1), ("a", 2)]:
        due.set(account, AT + timedelta(minutes=minutes))
    order = []
    while (following := due.next()) is not None:
        order.append(following[1])
        due.set(following[1], None)
    assert order == ["b", "a", "c"]


def test_an_accounts_newest_date_alone_counts() -> None:
    due = DueList()
    due.set("a", AT)
    due.set("a", AT + timedelta(days=1))
    due.set("b", AT + timedelta(hours=1))
    assert due.next() == (AT + timedelta(hours=1), "b")
    due.set("b", None)
    assert due.next() == (AT + timedelta(days=1), "a")
    assert due.until(AT, 10) == [] and due.until(AT + timedelta(days=1), 10) == ["a"]
    assert due.take_changed() == {"a": AT + timedelta(days=1), "b": None}
    assert due.take_changed() == {}
    assert (len(due), due.get("b")) == (1, None)


def test_a_due_account_is_never_acted_on_too_early() -> None:
    due = DueList()
    due.set("a", AT + timedelta(microseconds=1))
    assert due.get("a") == AT + timedelta(milliseconds=1)
    due.set("a", AT)
    assert due.get("a") == AT


def test_a_due_entry_is_dated_with_its_due_time_and_no_input_asked_for_it() -> None:
    partition = Partition()
    partition.take("2026-01-31T10:00 subscribe pro")
    partition.take("+1s use chat_action 200")
    (sealed,) = partition.book.decide_due("a", datetime(2026, 2, 28, 10, tzinfo=UTC))
    assert (sealed.entry.kind, sealed.entry.appended_at, sealed.entry.input) == (
        "renewal",
        datetime(2026, 2, 28, 10, tzinfo=UTC),
        None,
    )
    assert partition.book.due.next() is None


def test_acting_before_anything_is_due_writes_nothing() -> None:
    partition = Partition()
    partition.take("2026-01-31T10:00 subscribe pro")
    partition.take("+1s use chat_action 200")
    assert partition.book.decide_due("a", partition.now) == []
    assert partition.book.due.get("a") == datetime(2026, 2, 28, 10, tzinfo=UTC)
