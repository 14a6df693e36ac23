"""`AccountClient`: billing, the CRM and support report plans, suspensions and grants with it."""

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
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.producer import events, kafka_publisher
from usageledger.sdk.producer.events import Credits, Event, InvalidEvent, Share
from usageledger.sdk.producer.publisher import Blame, ConnectTo, Publisher, PublishError
from usageledger.sdk.settings import kafka_setting, prefix_setting


class CommandFailed(Exception):
    """A command was not acknowledged. Kafka may have it all the same.

    If ``retriable``, repeat the call with ``id=error.id``: under the same id the command takes
    effect once.
    """

    def __init__(self, message: str, *, id: str, retriable: bool) -> None:
        super().__init__(message)
        self.id = id
        self.retriable = retriable


class AccountClient:
    """Reports plans, suspensions and grants to the ledger.

    Each command returns the event's id once all in-sync replicas have the event. A crash before
    that loses nothing that a repeat under the same ``id`` does not restore.

    ::

        client = AccountClient(source="billing", kafka="kafka:9092")
        client.subscribe("acct_4821", "pro", time_zone="Europe/Berlin", id=stripe_event.id)

    ``source`` names the service. ``id`` is the billing system's own id of the event, by default a
    new one. A command that is repeated under the same id takes effect once. ``occurred_at`` is when
    the event happened, by default now.

    Every command raises InvalidEvent if an argument is wrong, and CommandFailed if Kafka has not
    acknowledged it within ``timeout_s`` seconds. A client may be used from any thread and after a
    fork; it sends its commands one after the other. The other settings are those of `UsageMeter`.

    ``actor`` says who sends, if others share the source: the ledger's entries have it. It changes
    neither the identity nor the content of an event.

    ``importing`` is for a ledger in import mode. Then ``occurred_at`` may be any time, and is also
    the timestamp of the record.
    """

    def __init__(
        self,
        *,
        source: str,
        kafka: KafkaConnection | str | None = None,
        prefix: str | None = None,
        timeout_s: float = 30.0,
        kafka_options: Mapping[str, object] | None = None,
        actor: str | None = None,
        importing: bool = False,
        clock: Callable[[], datetime] | None = None,
        connect_to: ConnectTo | None = None,
    ) -> None:
        try:
            self.source = check_name("source", source)
        except ValueError as error:
            raise InvalidEvent("source", str(error)) from None
        try:
            self._actor = None if actor is None else check_name("actor", actor)
        except ValueError as error:
            raise InvalidEvent("actor", str(error)) from None
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
        """Bring in an account in the middle of its billing cycle, as the account's first event.

        ``used`` are the credits of its period that it had used at the time ``as_of``, ``free_used``
        those of its Free allotment. Both are decimals, such as "14" or "0.5".
        """
        return self._send(
            events.account_opened(
                source=self.source,
                account=account,
                id=_id_or_new(id),
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

        Its billing cycle renews on the ``anchor``'s day and time of day, by default the event's, in
        ``time_zone``, by default UTC.
        """
        return self._send(
            events.account_subscribed(
                source=self.source,
                account=account,
                id=_id_or_new(id),
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
            id=_id_or_new(id),
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
        """Cancel the subscription at the end of its period, or ``"now"`` (for fraud)."""
        event = events.account_cancelled(
            source=self.source,
            account=account,
            id=_id_or_new(id),
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

        Limit events and check answers carry the ``reason``, such as ``"payment_failed"``. Its plan,
        cycle and grants continue, and usage that happens all the same is charged.
        """
        event = events.account_suspended(
            source=self.source,
            account=account,
            id=_id_or_new(id),
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
        """End an account's suspension. It is unblocked if it has credits left."""
        event = events.account_resumed(
            source=self.source,
            account=account,
            id=_id_or_new(id),
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
        """Set an account's thresholds: shares of a period's credits, such as ``["0.5", "0.9"]``.

        ``[]`` means none, None its plan's. Setting them announces nothing; the next use that
        crosses one does.
        """
        event = events.account_thresholds_set(
            source=self.source,
            account=account,
            id=_id_or_new(id),
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
        """Give an account credits (a decimal above 0) until they are used or ``expires_at``."""
        return self._send(
            events.credits_granted(
                source=self.source,
                account=account,
                id=_id_or_new(id),
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
        """Cancel the usage that the service ``source`` recorded under ``id``.

        The void's id is derived from the usage's identity, so a repeat is the same void.
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
        if self._actor is not None:
            event = {**event, "actor": self._actor}
        id, value = str(event["id"]), events.encode(event)
        deadline = time.monotonic() + self._timeout_s
        self._reset_after_fork()
        if not self._lock.acquire(timeout=self._timeout_s):
            raise CommandFailed(
                f"not sent: earlier commands needed {self._timeout_s} s. Repeat it with id={id!r}",
                id=id,
                retriable=True,
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

    def _reset_after_fork(self) -> None:
        """Begin anew in a forked child.

        Its connection belongs to the parent, and a thread that exists in the parent only may hold
        its lock.
        """
        if self._pid != os.getpid():
            _of_parent.append(self._publisher)
            self._publisher, self._lock, self._pid = None, threading.Lock(), os.getpid()


# The parent's connections. Were they collected in the child, they would close sockets that the
# parent shares.
_of_parent: list[object] = []


def _id_or_new(given: str | None) -> str:
    return str(uuid.uuid4()) if given is None else given
