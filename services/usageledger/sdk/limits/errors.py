"""How a subscriber ends when it cannot go on."""

from __future__ import annotations

from usageledger.sdk.limits.limit_event import LimitEvent


class SubscriberFailed(Exception):
    """The subscriber has ended by itself and no longer knows which accounts are blocked.

    ``__cause__`` says why. To go on, make another subscriber.
    """


class HandlerFailed(SubscriberFailed):
    """An app's handler raised in each of its attempts at ``event``, which stays unhandled.

    ``__cause__`` is the exception that the handler raised last.
    """

    def __init__(self, event: LimitEvent, handler: str, attempts: int) -> None:
        super().__init__(
            f"{handler} failed {attempts} times with limit event {event.id} ({event.kind}, account "
            f"{event.account!r})"
        )
        self.event = event
