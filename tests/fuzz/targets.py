"""One property for each decoder: for any bytes it returns or raises only what it documents.

The same bytes have the same result each time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from tests.fuzz.inputs import BEGIN_MS
from tests.fuzz.partition import FuzzedPartition, InputRecord, key_of
from usageledger.contracts.examples import example_entries, examples
from usageledger.domain.catalog import Catalog
from usageledger.domain.catalog_check import UnusableCatalog
from usageledger.domain.catalog_document import catalog_document, load_shipped_catalog, read_catalog
from usageledger.domain.chain import NotAnEntry, entry_at, unseal
from usageledger.domain.claim import claim_of, decode_claim, encode_claim
from usageledger.domain.encoding import decode_account, decode_head, decode_identity, encode
from usageledger.domain.events import Event
from usageledger.ledger.decoding import Malformed, decode_catalog, decode_usage
from usageledger.ledger.decoding import decode_account as decode_account_event
from usageledger.ledger.limit_address import NotALimitEvent, read_limit_event
from usageledger.ledger.records import Record
from usageledger.operations.event_file import outgoing_records
from usageledger.sdk.limits.blocked_view import BlockedView
from usageledger.sdk.limits.limit_event import LimitEvent, kind_of, parse_limit_event
from usageledger.sdk.producer import segments

Target = Callable[[bytes], None]


def usage(value: bytes) -> None:
    _event(value, decode_usage)


def account(value: bytes) -> None:
    _event(value, decode_account_event)


def _event(value: bytes, decode: Callable[[Record, int, int], object]) -> None:
    record = Record(0, BEGIN_MS, key_of(value, random.Random(0)), value)
    found = decode(record, 0, 1)
    assert found == decode(record, 0, 1)
    assert isinstance(found, Event) or (isinstance(found, Malformed) and found.detail)


def catalog(value: bytes) -> None:
    found = decode_catalog(Record(0, BEGIN_MS, None, value))
    assert isinstance(found, Catalog) or (isinstance(found, Malformed) and found.detail)


def document(value: bytes) -> None:
    try:
        found = read_catalog(value)
    except UnusableCatalog:
        return
    assert read_catalog(catalog_document(found)) == found


def entry(value: bytes) -> None:
    """Only the bytes that `seal` wrote are an entry, and only at its own offset."""
    try:
        sealed = unseal(value)
    except NotAnEntry:
        return
    if sealed is None:
        assert entry_at(0, value) is None
        return
    assert sealed.value == value
    assert entry_at(sealed.entry.offset, value) == sealed
    assert entry_at(sealed.entry.offset + 1, value) is None


def claim(value: bytes) -> None:
    found = decode_claim(value)
    assert found is None or decode_claim(encode_claim(found)) == found


def limit_event(value: bytes) -> None:
    view = BlockedView()
    try:
        event, place = read_limit_event(value)
        view.apply(event, place, value)
        if kind_of(event) is not None:
            assert isinstance(parse_limit_event(event), LimitEvent)
    except NotALimitEvent:
        return


def view(blob: bytes) -> None:
    for decode in (decode_account, decode_identity, decode_head):
        try:
            found: Any = decode(blob)
        except msgspec.MsgspecError:
            continue
        assert decode(encode(found)) == found


def spool(data: bytes) -> None:
    """Every whole frame is found once, whatever bytes are before and after it."""
    before, after = (
        segments.pack(b"key", b"before", "", 1),
        segments.pack(b"key", b"after", "why", 2),
    )
    found = list(segments.frames(before + data + after))
    assert (found[0].value, found[-1].value) == (b"before", b"after")
    ends = [frame.offset + frame.size for frame in found]
    assert all(end <= frame.offset for end, frame in zip(ends, found[1:], strict=False))
    path = Path(_scratch.name) / "000001.segment"
    path.write_bytes(before + data)
    segment, _ = segments.scan(path)
    assert segment.pending >= 1 and segment.size <= len(before + data)


def lines(data: bytes) -> None:
    """`usageledger send` makes a record of each line that is not blank, for the decoders."""
    given = data.split(b"\n")
    for importing in (False, True):
        sent = list(outgoing_records(given, partition_count=7, importing=importing))
        assert [record.line for record in sent] == [
            number for number, line in enumerate(given, 1) if line.strip()
        ]
        for record in sent:
            assert 0 <= record.partition < 7
            assert record.timestamp_ms is None or record.timestamp_ms >= 0
            decode = decode_usage if record.input == "usage" else decode_account_event
            decode(
                Record(0, record.timestamp_ms or 0, record.key, record.value), record.partition, 7
            )


def partition(data: bytes) -> None:
    """Every event of a file is decided and counted, and the audit replays it to the same bytes."""
    FuzzedPartition().run(_records_of(data))


def _records_of(data: bytes) -> list[InputRecord]:
    records = outgoing_records(data.split(b"\n")[:50], partition_count=1, importing=True)
    events = [
        InputRecord(record.input, record.timestamp_ms or 0, record.key, record.value)
        for record in records
    ]
    return [InputRecord("catalog", BEGIN_MS, None, _CATALOG), *events]


_scratch = TemporaryDirectory(prefix="fuzz")
_CATALOG = json.dumps(
    {**examples()["catalog.published"][0], "data": catalog_document(load_shipped_catalog())}
).encode()

TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        usage,
        account,
        catalog,
        document,
        entry,
        claim,
        limit_event,
        view,
        spool,
        lines,
        partition,
    )
}


def seeds(target: str) -> list[bytes]:
    """Valid inputs of every kind that the target accepts, to begin with."""
    return _SEEDS[target]()


def _messages(*beginnings: str) -> list[bytes]:
    """The example messages whose type begins with one of ``beginnings``."""
    return [
        json.dumps(each).encode()
        for type_, found in examples().items()
        for each in found
        if type_.startswith(beginnings)
    ]


def _story() -> bytes:
    accounts = _messages(*_ACCOUNT_EVENTS)
    return b"\n".join([*_messages("usage.recorded") * 2, *accounts, *_messages("usage.recorded")])


def _values_of_the_view() -> list[bytes]:
    """An account, its identities and a head, as a real partition has them."""
    ledger = FuzzedPartition()
    ledger.run(_records_of(_story()))
    values = [
        *ledger.book.accounts.values(),
        *list(ledger.book.identities.values())[:2],
        ledger.book.head,
    ]
    return [encode(value) for value in values if value is not None]


_ACCOUNT_EVENTS = ("account.", "credits.", "usage.voided")
_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "usage": lambda: _messages("usage.recorded"),
    "account": lambda: _messages(*_ACCOUNT_EVENTS),
    "catalog": lambda: [_CATALOG, *_messages("catalog.")],
    "document": lambda: [
        json.dumps(json.loads(each)["data"]).encode() for each in _messages("catalog.")
    ],
    "entry": lambda: [*(sealed.value for sealed in example_entries()), *_messages("ledger.claim")],
    "claim": lambda: [*_messages("ledger.claim"), encode_claim(claim_of(0, "ledger", "worker"))],
    "limit_event": lambda: _messages("limit."),
    "view": _values_of_the_view,
    "spool": lambda: [
        segments.pack(b"acct_1", each, "too large", BEGIN_MS)
        for each in _messages("usage.recorded")
    ],
    "lines": lambda: [
        _story(),
        *_messages(*_ACCOUNT_EVENTS),
        b"\r\n\n" + _messages("usage.recorded")[0],
    ],
    "partition": lambda: [_story()],
}
