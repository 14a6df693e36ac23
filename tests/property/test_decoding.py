"""No decoder raises on bad input, for any bytes. The same bytes have the same result."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.notation import SHIPPED
from usageledger.domain.catalog import Catalog
from usageledger.domain.events import Event
from usageledger.domain.head import Head
from usageledger.domain.quantity import check_name
from usageledger.ledger.decoding import Malformed, decode_account, decode_catalog, decode_usage
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record

HEADER = {
    "specversion": "1.0",
    "id": "g",
    "source": "/s",
    "subject": "a",
    "time": "2026-11-22T10:15:30Z",
}
DATA: dict[str, dict[str, Any]] = {
    "usage.recorded": {
        "feature": "genai_video",
        "model": "veo_3",
        "quantity": "1",
        "hold_id": "h",
        "dimensions": {"worker": "w"},
    },
    "account.opened": {
        "plan": "pro",
        "anchor": "2026-01-31T10:00:00Z",
        "time_zone": "UTC",
        "used": "1",
        "free_used": 2,
        "as_of": None,
    },
    "account.subscribed": {
        "plan": "pro",
        "time_zone": "Europe/Berlin",
        "anchor": "2026-01-31T10:00:00Z",
    },
    "account.plan_changed": {"plan": "max"},
    "account.cancelled": {"effective": "now"},
    "account.suspended": {"reason": "fraud", "note": "a stolen card"},
    "account.resumed": {"reason": "settled"},
    "account.thresholds_set": {"thresholds": ["0.5", "0.9"]},
    "credits.granted": {"credits": "5", "reason": "sorry", "expires_at": "2027-01-01T00:00:00Z"},
    "usage.voided": {"source": "/s", "id": "g", "reason": "failed"},
}
keys = st.none() | st.binary(max_size=8) | st.just(b"a")
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            " ",
            "9" * 400,
            "-1",
            "1e9",
            "0.0000001",
            "\ud800",
            "9999-12-31T23:59:59-23:59",
            "0001-01-01T00:00:00+23:59",
        ]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
timestamps = st.integers(-1, 5_000_000_000_000) | st.integers(-(2**63), 2**63 - 1)


@st.composite
def mutated_events(draw: st.DrawFn) -> bytes:
    """A valid event with some of its fields replaced or left out, and perhaps some of its bytes."""
    type_ = draw(st.sampled_from(sorted(DATA)))
    event: dict[str, Any] = {**HEADER, "type": type_, "data": dict(DATA[type_])}
    for _ in range(draw(st.integers(0, 3))):
        fields = (
            draw(st.sampled_from([event, event["data"]]))
            if isinstance(event.get("data"), dict)
            else event
        )
        if not fields:
            continue
        name = draw(st.sampled_from(sorted(fields)))
        if draw(st.booleans()):
            fields[name] = draw(values)
        else:
            del fields[name]
    written = bytearray(json.dumps(event).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        written[draw(st.integers(0, len(written) - 1))] = draw(st.integers(0, 255))
    return bytes(written)


def _decode_all_ways(value: bytes, key: bytes | None) -> list[object]:
    record = Record(0, 0, key, value)
    return [decode_usage(record, 0, 1), decode_account(record, 0, 1), decode_catalog(record)]


@given(
    st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    keys,
)
def test_arbitrary_bytes_are_decoded_or_refused(value: bytes, key: bytes | None) -> None:
    for decoded in _decode_all_ways(value, key):
        assert isinstance(decoded, (Malformed, Event, Catalog))


@settings(max_examples=400)
@given(mutated_events(), keys)
def test_a_mutated_event_always_has_the_same_result(value: bytes, key: bytes | None) -> None:
    decoded = _decode_all_ways(value, key)
    assert decoded == _decode_all_ways(value, key)
    for result in decoded:
        if isinstance(result, Malformed):
            assert result.detail and (result.account == "" or result.account.encode() == key)
        elif isinstance(result, Event):
            assert result.account.encode() == key


@settings(max_examples=200)
@given(
    st.lists(st.tuples(mutated_events(), st.just(b"a") | keys, timestamps), max_size=4),
    st.sampled_from(["usage", "account"]),
)
def test_a_partition_decides_whatever_bytes_its_records_have(
    records: list[tuple[bytes, bytes | None, int]], topic: Any
) -> None:
    """Each input has an entry of its own, and the ledger's time never decreases."""
    book = PartitionBook(0, 1, Head(ledger="ledger"), SHIPPED)
    for offset, (value, key, timestamp_ms) in enumerate(records):
        before = book.head.clock
        (item,) = book.decode(topic, [Record(offset, timestamp_ms, key, value)])
        entries = [sealed.entry for sealed in book.decide_input(item)]
        assert entries and all(
            entry.input is not None and entry.input.offset == offset for entry in entries
        )
        assert before <= book.head.clock == entries[-1].appended_at


@given(st.text(max_size=12))
def test_the_fast_path_for_names_accepts_exactly_what_the_rules_accept(name: str) -> None:
    whole = not any(
        ord(character) < 32 or ord(character) == 127 or 0xD800 <= ord(character) <= 0xDFFF
        for character in name
    )
    accepted = whole and name != "" and not name[0].isspace() and not name[-1].isspace()
    try:
        assert check_name("id", name) == name and accepted
    except ValueError:
        assert not accepted
