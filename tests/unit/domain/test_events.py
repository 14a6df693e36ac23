"""The events that the ledger receives: a closed set, each with its CloudEvents type."""

from __future__ import annotations

from typing import get_args

from usageledger.contracts.messages import MESSAGES
from usageledger.domain.events import EVENT_TYPES, AnyEvent


def test_every_event_has_a_type_of_its_own_and_a_message() -> None:
    assert set(EVENT_TYPES) == set(get_args(AnyEvent))
    assert len(set(EVENT_TYPES.values())) == len(EVENT_TYPES)
    assert set(EVENT_TYPES.values()) < set(MESSAGES)
