"""`Handlers`: an app's functions for limit events, and the attempts that each event gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from usageledger.runtime.backoff import Backoff
from usageledger.sdk.limits.errors import HandlerFailed
from usageledger.sdk.limits.limit_event import Kind, LimitEvent, kind_of, parse_limit_event

HANDLER_RETRY = Backoff((0.1, 1.0))
"""A handler that raises is called again after each of these delays, and no more."""

Handler = Callable[[LimitEvent], object]


class Handlers:
    """An app's functions for each kind of limit event. ``pause`` waits between two attempts."""

    def __init__(self, pause: Callable[[float], object]) -> None:
        self._by_kind: dict[Kind, list[Handler]] = {"threshold": [], "reached": [], "cleared": []}
        self._pause = pause

    def add(self, kind: Kind, handler: Handler) -> None:
        """Call ``handler`` with every event of that kind, after the handlers added before it."""
        self._by_kind[kind].append(handler)

    def hand_over(self, event: Mapping[str, Any]) -> None:
        """Call the handlers of an event's kind, each a bounded number of times.

        Raises HandlerFailed if one raised in every attempt, NotALimitEvent if the event cannot be
        read.
        """
        kind = kind_of(event)
        handlers = self._by_kind[kind] if kind is not None else []
        if not handlers:
            return
        parsed = parse_limit_event(event)
        for handler in handlers:
            self._call(handler, parsed)

    def _call(self, handler: Handler, event: LimitEvent) -> None:
        for delay_s in HANDLER_RETRY.delays_s:
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - the last attempt raises whatever it is
                self._pause(delay_s)
            else:
                return
        try:
            handler(event)
        except Exception as error:
            name = getattr(handler, "__qualname__", repr(handler))
            raise HandlerFailed(event, name, len(HANDLER_RETRY.delays_s) + 1) from error
