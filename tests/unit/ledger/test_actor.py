"""The sender of an event is in its entry, and decides nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.worlds.decided_partition import DecidedPartition
from usageledger.domain.bounds import NAME_LENGTH_MAX
from usageledger.domain.chain import SealedEntry

USE = {"feature": "genai_video", "model": "veo_3", "quantity": "1"}


def sent_by(ledger: DecidedPartition, kind: str, id: str, actor: Any, data: Any) -> SealedEntry:
    event = {**json.loads(ledger.event(kind, id, data)), "actor": actor}
    topic = "usage" if kind == "usage.recorded" else "account"
    return ledger.send(topic, json.dumps(event).encode())[-1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("usage.recorded", USE),
        ("credits.granted", {"credits": "5", "reason": "sorry"}),
        ("usage.voided", {"source": "/s", "id": "u0", "reason": "it failed"}),
        ("account.suspended", {"reason": "fraud"}),
    ],
)
def test_an_entry_names_whoever_sent_its_event(kind: str, data: Any) -> None:
    entry = sent_by(DecidedPartition(), kind, "e1", "key:0a1b2c3d", data).entry
    assert entry.event is not None
    assert entry.event.actor == "key:0a1b2c3d"


def test_a_refusal_names_its_sender_too() -> None:
    entry = sent_by(
        DecidedPartition(), "usage.recorded", "u1", "key:1", USE | {"model": "veo_99"}
    ).entry
    assert (entry.kind, entry.reason) == ("refusal", "unknown_model")
    assert entry.event is not None
    assert entry.event.actor == "key:1"


def test_a_retry_by_somebody_else_is_a_duplicate() -> None:
    ledger = DecidedPartition()
    assert sent_by(ledger, "usage.recorded", "u1", "key:1", USE).entry.kind == "usage"
    assert sent_by(ledger, "usage.recorded", "u1", "key:2", USE).entry.kind == "duplicate"


def test_without_a_sender_an_entry_has_the_bytes_that_it_always_had() -> None:
    entry = DecidedPartition().use("u1")[-1]
    assert entry.entry.event is not None
    assert entry.entry.event.actor is None
    assert b"actor" not in entry.value


@pytest.mark.parametrize("actor", ["", "a\nb", "x" * (NAME_LENGTH_MAX + 1), 7, {"id": 1}])
def test_a_sender_that_is_no_name_makes_an_event_malformed(actor: Any) -> None:
    entry = sent_by(DecidedPartition(), "usage.recorded", "u1", actor, USE).entry
    assert (entry.kind, entry.reason) == ("refusal", "invalid_event")
    assert "actor" in (entry.detail or "")
