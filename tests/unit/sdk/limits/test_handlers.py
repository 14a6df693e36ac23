"""The handlers that are called with a limit event, and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest

from usageledger.contracts.examples import examples
from usageledger.ledger.limit_address import LimitAddress
from usageledger.sdk.limits.blocked_view import BlockedView
from usageledger.sdk.limits.errors import HandlerFailed
from usageledger.sdk.limits.handlers import HANDLER_RETRY, Handlers
from usageledger.sdk.limits.limit_event import LimitEvent

REACHED: dict[str, Any] = examples()["limit.reached"][0]
CLEARED: dict[str, Any] = examples()["limit.cleared"][0]
THRESHOLD: dict[str, Any] = examples()["limit.threshold"][0]


def no_pause(_seconds: float) -> None:
    """Retries run without a pause."""


def test_a_kinds_handlers_are_called_in_the_order_they_were_added() -> None:
    called: list[tuple[str, str]] = []
    handlers = Handlers(no_pause)
    handlers.add("reached", lambda event: called.append(("first", event.id)))
    handlers.add("reached", lambda event: called.append(("second", event.id)))
    handlers.add("cleared", lambda event: called.append(("cleared", event.id)))
    for event in (THRESHOLD, REACHED, CLEARED):
        handlers.hand_over(event)
    assert called == [("first", "3-1042-1"), ("second", "3-1042-1"), ("cleared", "3-1043-0")]


def test_a_kind_from_a_later_release_is_ignored() -> None:
    handlers, view = Handlers(no_pause), BlockedView()
    for kind in ("threshold", "reached", "cleared"):
        handlers.add(kind, lambda event: pytest.fail(f"called with {event}"))
    later = {**REACHED, "type": "limit.paused"}
    handlers.hand_over(later)
    view.apply(later, LimitAddress(3, 1042, 1, 2), json.dumps(later).encode())
    assert view.blocked() == set()


def test_a_handler_that_fails_is_called_again_and_then_succeeds() -> None:
    attempts: list[str] = []
    pauses: list[float] = []

    def handler(event: LimitEvent) -> None:
        attempts.append(event.id)
        if len(attempts) < 3:
            raise OSError("the session service is away")

    handlers = Handlers(pauses.append)
    handlers.add("reached", handler)
    handlers.hand_over(REACHED)
    assert attempts == ["3-1042-1"] * 3
    assert pauses == list(HANDLER_RETRY.delays_s)


def test_a_handler_that_keeps_failing_surfaces_with_its_event_and_error() -> None:
    def stop_session(_event: LimitEvent) -> None:
        raise OSError("the session service is away")

    handlers = Handlers(no_pause)
    handlers.add("reached", stop_session)
    with pytest.raises(
        HandlerFailed, match="stop_session failed 3 times with limit event 3-1042-1"
    ) as raised:
        handlers.hand_over(REACHED)
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.event.id == "3-1042-1"
