"""Sealed entries: a changed byte is found, and an entry counts only at the offset it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import msgspec
import pytest
from msgspec.structs import replace

from tests.notation import Partition
from usageledger.domain.chain import NotAnEntry, SealedEntry, entry_at, seal, unseal
from usageledger.domain.claim import claim_of, decode_claim, encode_claim
from usageledger.domain.encoding import decode_account, decode_head, decode_identity
from usageledger.domain.entry import LedgerEntry
from usageledger.domain.head import Head, advance


def _entries() -> list[SealedEntry]:
    partition = Partition()
    for line in [
        "2026-01-31T10:00 use genai_video/veo_3 id=g",
        "+1s use chat_action 170 account=ü",
        "+1s use nothing",
        "+1s void g",
    ]:
        partition.take(line)
    return partition.entries


def test_a_sealed_entry_is_read_back() -> None:
    for sealed in _entries():
        assert unseal(sealed.value) == sealed


def test_each_entry_names_the_hash_of_the_one_before() -> None:
    entries = _entries()
    assert [sealed.entry.previous_hash for sealed in entries] == [
        "",
        *(sealed.hash for sealed in entries[:-1]),
    ]
    assert [sealed.entry.offset for sealed in entries] == list(range(len(entries)))


def test_any_changed_byte_is_found() -> None:
    """The entry itself shows the change. If it can no longer be read, the next entry names a
    missing hash.
    """
    sealed = _entries()[1]
    for place in range(len(sealed.value)):
        for flip in (0x01, 0x20):
            changed = bytearray(sealed.value)
            changed[place] ^= flip
            with pytest.raises(NotAnEntry):
                unseal(bytes(changed))


def test_missing_and_added_bytes_are_found() -> None:
    value = _entries()[0].value
    for changed in (
        value[:-1],
        value[1:],
        value + b" ",
        value.replace(b'"account"', b' "account"', 1),
        b"",
        b"{}",
        b"null",
        value + value,
    ):
        with pytest.raises(NotAnEntry):
            unseal(changed)


def test_an_entry_renamed_a_claim_is_missed_by_the_next() -> None:
    first, second = _entries()[:2]
    renamed = first.value.replace(b'"ledger.entry"', b'"ledger.claim"')
    assert unseal(renamed) is None
    assert second.entry.previous_hash == first.hash != ""


def test_an_envelope_that_contradicts_its_entry_is_found() -> None:
    value = _entries()[0].value
    for stated, instead in [
        (b'"subject":"a"', b'"subject":"b"'),
        (b'"id":"0-0"', b'"id":"0-1"'),
        (b"ledger/0", b"ledger/1"),
    ]:
        assert stated in value
        with pytest.raises(NotAnEntry):
            unseal(value.replace(stated, instead, 1))


def test_an_entry_of_an_unknown_kind_is_no_entry() -> None:
    """A newer release may write kinds that this one does not know.

    Skipping one would give a wrong state, so reading stops there. Its hash is right.
    """
    sealed = unseal(_value_of_kind("skip"))
    assert sealed is not None and sealed.entry.kind == "skip"
    with pytest.raises(NotAnEntry, match="fee"):
        unseal(_value_of_kind("fee"))


def _value_of_kind(kind: str) -> bytes:
    entry = {"kind": kind, "appended_at": "2026-01-31T10:00:00Z", "partition": 0, "offset": 0}
    unhashed = json.dumps(entry, separators=(",", ":")).encode()
    hash_field = b',"hash":"%s"}' % hashlib.sha256(unhashed).hexdigest().encode()
    return (
        b'{"specversion":"1.0","type":"ledger.entry","source":"/usageledger/ledger/0","id":"0-0",'
        b'"time":"2026-01-31T10:00:00Z","datacontenttype":"application/json","data":'
        b"%s%s}" % (unhashed[:-1], hash_field)
    )


def test_an_entry_elsewhere_than_at_the_offset_it_names_is_no_entry() -> None:
    for sealed in _entries():
        offset = sealed.entry.offset
        assert entry_at(offset, sealed.value) == sealed
        assert entry_at(offset - 1, sealed.value) is None
        assert entry_at(offset + 1, sealed.value) is None


def test_claims_and_tombstones_are_no_entries() -> None:
    assert entry_at(0, encode_claim(claim_of(0, "ledger", "worker"))) is None
    assert entry_at(0, None) is None


def test_a_sealed_entry_is_a_cloudevent_with_its_hash_last() -> None:
    sealed = _entries()[1]
    event = json.loads(sealed.value)
    assert (event["specversion"], event["type"], event["id"], event["source"]) == (
        "1.0",
        "ledger.entry",
        "0-1",
        "/usageledger/ledger/0",
    )
    assert event["subject"] == event["data"]["account"]
    assert event["time"] == event["data"]["appended_at"]
    assert list(event["data"])[-1] == "hash" and event["data"]["hash"] == sealed.hash


def test_an_entry_of_no_account_has_no_subject() -> None:
    (sealed,), _ = seal(
        [LedgerEntry(kind="refusal", appended_at=Partition().now, reason="not_json")],
        Head(ledger="x"),
        3,
    )
    assert "subject" not in json.loads(sealed.value)
    assert unseal(sealed.value) == sealed


def test_the_head_is_a_fold_of_entries() -> None:
    partition = Partition()
    head = partition.book.head
    for line in ["2026-01-31T10:00 use chat_action", "+1s grant 5", "+1s use telepathy"]:
        for sealed in partition.take(line):
            head = advance(head, sealed.entry, sealed.hash)
    assert head == partition.book.head
    assert (head.usage_next, head.account_next, head.catalog_next, head.next_offset) == (2, 1, 0, 4)
    assert head.clock == partition.now


def test_sealing_leaves_the_input_that_a_draft_names() -> None:
    entry = _entries()[0].entry
    (sealed,), _ = seal([entry], Head(ledger="x"), 0)
    assert sealed.entry == replace(entry, previous_hash="")


@pytest.mark.parametrize(
    "value", [b'{"type":"\xff","data":{}}', b'{"type":"ledger.entry","data":' + b"[" * 100_000]
)
def test_invalid_text_and_deep_nesting_are_no_entry(value: bytes) -> None:
    """Incident: foreign bytes in a ledger partition raised errors that no reader caught.

    The worker crashed again and again. Its partition should have stopped and named the offset.
    """
    with pytest.raises(NotAnEntry):
        unseal(value)
    assert decode_claim(value) is None


@pytest.mark.parametrize("decode", [decode_account, decode_identity, decode_head])
def test_any_wrong_bytes_in_the_view_raise_the_same_error(
    decode: Callable[[bytes], object],
) -> None:
    for blob in (b"", b"{}", b"\xff", b'{"plan":"\xff"}', b'{"x":' + b"[" * 100_000):
        with pytest.raises(msgspec.MsgspecError):
            decode(blob)
