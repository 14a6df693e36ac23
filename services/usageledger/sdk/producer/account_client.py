"""`AccountClient`: what billing, the CRM and support tell the ledger about accounts with."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Literal

from usageledger.domain.quantity import check_name
from usageledger.log.topics import Topics
from usageledger.sdk.producer import events, kafka_publisher
from usageledger.sdk.producer.events import Credits, Event, InvalidEvent, Share
from usageledger.sdk.producer.publisher import Blame, ConnectTo, Publisher, PublishError
from usageledger.sdk.settings import kafka_setting, prefix_setting


class CommandFailed(Exception):
    """A command was not acknowledged. It may have been taken all the same.

    If it is ``retriable``, call again with ``id=error.id``: under the same id it takes effect once.
    """

    def __init__(self, message: str, *, id: str, retriable: bool) -> None:
        super().__init__(message)
        self.id = id
        self.retriable = retriable


class AccountClient:
    """Tells the ledger about plans, suspensions and grants.

    Each command returns when all in-sync replicas have it, with the event's id.

    ::

        client = AccountClient(source="billing", kafka="kafka:9092")
        client.subscribe("acct_4821", "pro", time_zone="Europe/Berlin", id=stripe_event.id)

    ``source`` names the service. ``id`` is the billing system's own id of what happened (a new one
    by default): the same command sent again under the same id takes effect once. ``occurred_at`` is
    when it happened (now by default).

    Every command raises InvalidEvent for what is wrong with it, and CommandFailed if Kafka has not
    acknowledged it within ``timeout_s``. For use from any thread, and after a fork; commands of one
    client go out one after the other. Settings as for `UsageMeter`.

    ``importing`` is for a ledger in import mode: ``occurred_at`` may then be any time, and is the
    time of the record too.
    """

    def __init__(
        self,
        *,
        source: str,
        kafka: str | None = None,
        prefix: str | None = None,
        timeout_s: float = 30.0,
        kafka_options: Mapping[str, object] | None = None,
        importing: bool = False,
        clock: Callable[[], datetime] | None = None,
        connect_to: ConnectTo | None = None,
    ) -> None:
        try:
            self.source = check_name("source", source)
        except ValueError as error:
            raise InvalidEvent("source", str(error)) from None
        connect_to = connect_to or kafka_publisher.connector_to(kafka_setting(kafka), kafka_options)
        self._connect = connect_to(Topics(prefix_setting(prefix)).account)
        self._timeout_s = timeout_s
        self._importing = importing
        self._clock = clock or events.utc_now
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._publisher: Publisher | None = None

    def open_account(
        self,
        account: str,
        plan: str,
        *,
        anchor: datetime | None = None,
        time_zone: str | None = None,
        used: Credits | None = None,
        free_used: Credits | None = None,
        as_of: datetime | None = None,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Bring in an account mid-cycle: its plan and cycle, and the credits of its period and of
        its Free allotment it had used ``as_of``.

        Only as the account's first event. Credits are decimals, such as "14" or "0.5".
        """
        return self._send(
            events.account_opened(
                source=self.source,
                account=account,
                id=_id(id),
                plan=plan,
                anchor=anchor,
                time_zone=time_zone,
                used=used,
                free_used=free_used,
                as_of=as_of,
                occurred_at=occurred_at,
                now=self._clock(),
                live=not self._importing,
            )
        )

    def subscribe(
        self,
        account: str,
        plan: str,
        *,
        time_zone: str | None = None,
        anchor: datetime | None = None,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Begin a subscription.

        Its cycle renews on the ``anchor``'s day and time of day (default: the event's) in
        ``time_zone`` (UTC).
        """
        return self._send(
            events.account_subscribed(
                source=self.source,
                account=account,
                id=_id(id),
                plan=plan,
                time_zone=time_zone,
                anchor=anchor,
                occurred_at=occurred_at,
                now=self._clock(),
                live=not self._importing,
            )
        )

    def change_plan(
        self, account: str, plan: str, *, id: str | None = None, occurred_at: datetime | None = None
    ) -> str:
        """Change the plan: an upgrade takes effect at once, a downgrade at the next renewal."""
        event = events.account_plan_changed(
            source=self.source,
            account=account,
            id=_id(id),
            plan=plan,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def cancel(
        self,
        account: str,
        effective: Literal["period_end", "now"] = "period_end",
        *,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Cancel the subscription with the end of its period, or ``"now"`` (for fraud)."""
        event = events.account_cancelled(
            source=self.source,
            account=account,
            id=_id(id),
            effective=effective,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def suspend(
        self,
        account: str,
        reason: str,
        *,
        note: str | None = None,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Block an account, whatever it has left, until it is resumed.

        Apps are told the ``reason``, such as ``"payment_failed"``.

        Its plan, its cycle and its grants go on, and what it uses all the same counts.
        """
        event = events.account_suspended(
            source=self.source,
            account=account,
            id=_id(id),
            reason=reason,
            note=note,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def resume(
        self,
        account: str,
        *,
        reason: str | None = None,
        note: str | None = None,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """End an account's suspension: it is free again if something remains to it."""
        event = events.account_resumed(
            source=self.source,
            account=account,
            id=_id(id),
            reason=reason,
            note=note,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def set_thresholds(
        self,
        account: str,
        thresholds: Sequence[Share] | None,
        *,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Set the shares of its credits at which an account is announced, such as
        ``["0.5", "0.9"]``: ``[]`` for none, None for its plan's.

        Setting them announces nothing; the next use that crosses one does.
        """
        event = events.account_thresholds_set(
            source=self.source,
            account=account,
            id=_id(id),
            thresholds=thresholds,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def grant_credits(
        self,
        account: str,
        credits: Credits,
        reason: str,
        *,
        expires_at: datetime | None = None,
        id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> str:
        """Give an account credits (a decimal above 0), until they are used or until
        ``expires_at``.
        """
        return self._send(
            events.credits_granted(
                source=self.source,
                account=account,
                id=_id(id),
                credits=credits,
                reason=reason,
                expires_at=expires_at,
                occurred_at=occurred_at,
                now=self._clock(),
                live=not self._importing,
            )
        )

    def void_usage(
        self,
        account: str,
        source: str,
        id: str,
        reason: str,
        *,
        occurred_at: datetime | None = None,
    ) -> str:
        """Take back the usage that the service ``source`` recorded as ``id``.

        A repeat is the same void: its id is derived from these.
        """
        event = events.usage_voided(
            source=self.source,
            account=account,
            usage_source=source,
            usage_id=id,
            reason=reason,
            occurred_at=occurred_at,
            now=self._clock(),
            live=not self._importing,
        )
        return self._send(event)

    def close(self) -> None:
        """Close the connection. A later command opens another."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> AccountClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, event: Event) -> str:
        id, value = str(event["id"]), events.encode(event)
        deadline = time.monotonic() + self._timeout_s
        self._notice_fork()
        if not self._lock.acquire(timeout=self._timeout_s):
            raise CommandFailed(
                f"not sent: earlier commands took {self._timeout_s} s", id=id, retriable=True
            )
        try:
            self._publish(event, value, deadline)
        except PublishError as error:
            self._disconnect()
            message = f"{event['type']} for {event['subject']} was not acknowledged: {error}"
            raise CommandFailed(message, id=id, retriable=error.blame is not Blame.EVENT) from error
        finally:
            self._lock.release()
        return id

    def _publish(self, event: Event, value: bytes, deadline: float) -> None:
        """Send one event and wait for its acknowledgement. Raises PublishError."""
        if self._publisher is None:
            self._publisher = self._connect()
        outcome: list[PublishError | None] = []
        is_done = threading.Event()

        def done(error: PublishError | None) -> None:
            outcome.append(error)
            is_done.set()

        timestamp_ms = events.timestamp_ms(event) if self._importing else None
        self._publisher.send(events.record_key(event), value, done, timestamp_ms=timestamp_ms)
        if not is_done.wait(max(0.0, deadline - time.monotonic())):
            raise PublishError(f"no answer within {self._timeout_s} s", Blame.CONNECTION)
        if outcome[0] is not None:
            raise outcome[0]

    def _disconnect(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.close()

    def _notice_fork(self) -> None:
        """In a forked child the connection is the parent's, and the lock may be held by a thread
        that is not there.
        """
        if self._pid != os.getpid():
            _left_to_the_parent.append(self._publisher)
            self._publisher, self._lock, self._pid = None, threading.Lock(), os.getpid()


# Kept from being collected, which would close what is shared with the parent.
_left_to_the_parent: list[object] = []


def _id(given: str | None) -> str:
    return str(uuid.uuid4()) if given is None else given
