"""One topic's events on their way to Kafka: a spool on disk, and the sender that empties it."""

from __future__ import annotations

import time
from collections.abc import Callable

from usageledger.sdk.producer.publisher import Connect
from usageledger.sdk.producer.recording import Waiting
from usageledger.sdk.producer.sender import Sender, SenderSettings
from usageledger.sdk.producer.spool import Spool


class Outbox:
    """Keeps messages on disk and sends them in the background.

    Messages that an earlier process left in the directory are sent first.
    """

    def __init__(
        self,
        spool: Spool,
        connect: Connect,
        settings: SenderSettings,
        *,
        on_connected: Callable[[], None] | None = None,
    ) -> None:
        self._spool = spool
        self._sender = Sender(spool, connect, settings, on_connected=on_connected)
        self._sender.start()

    def put(self, key: bytes, value: bytes) -> None:
        """Write a message to disk; it is sent in the background. Raises SpoolFull or SpoolError."""
        self._spool.append(key, value)
        self._sender.wake()

    def flush(self, deadline: float) -> bool:
        """Wait until all messages put so far are acknowledged.

        Returns False at ``deadline`` (by `time.monotonic`), or if the broker refuses one of them.
        """
        if not self._sender.has_adopted(max(0.0, deadline - time.monotonic())):
            return False
        files = self._spool.roll()
        self._sender.wake()
        while not self._spool.gone(files):
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            self._sender.wait_for_progress(min(left_s, 0.1))
        return not self._spool.holds_refused()

    def close(self, deadline: float) -> bool:
        """Flush, then stop. Messages that are left stay on disk for the next process."""
        flushed = self.flush(deadline)
        # A thread that is just connecting ends later, and closes the spool only then.
        self._sender.stop(max(0.5, deadline - time.monotonic()))
        return flushed

    def waiting(self) -> Waiting:
        """Return which messages wait to be sent or acknowledged."""
        count, size, parked = self._spool.figures()
        oldest_ms = self._sender.oldest_written_ms() if count else None
        age_s = 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        return Waiting(
            count=count, bytes=size, age_s=age_s, parked=parked, last_error=self._sender.last_error
        )

    def before_fork(self) -> bool:
        """See `Spool.before_fork`."""
        return self._spool.before_fork()

    def after_fork_in_parent(self) -> None:
        """See `Spool.after_fork_in_parent`."""
        self._spool.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """See `Spool.after_fork_in_child`. The parent's outbox is of no use in the child."""
        self._spool.after_fork_in_child()
