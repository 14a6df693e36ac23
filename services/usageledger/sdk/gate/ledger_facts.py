"""Facts about the ledger that a gate needs to ask Redis directly, from Kafka.

That is the number of partitions, and the catalogs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock, Thread
from typing import TypeVar

from kafka.errors import KafkaError

from usageledger.counters.keys import PartitionKeys
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.ledger.partitioning import partition_of
from usageledger.log.published_catalogs import PublishedCatalogs
from usageledger.log.reading import LogUnreadable
from usageledger.runtime.kafka_connection import KafkaConnection
from usageledger.sdk.gate.answers import GateMisconfigured, GateUnavailable

T = TypeVar("T")

PATIENCE_S = 10.0


class LedgerFacts:
    """A ledger's number of partitions and its catalogs, read from Kafka. Threads may share it.

    Kafka is asked at first, and again when another catalog has been adopted. It is asked in a
    thread of its own, because an unreachable broker takes long to fail. A late answer serves the
    next caller. A caller waits up to PATIENCE_S, but only ``timeout_s`` once a wait was in vain,
    until Kafka answers again.
    """

    def __init__(self, kafka: KafkaConnection, prefix: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._wait_s = PATIENCE_S
        self._kafka = kafka
        self._prefix = prefix
        self._partition_count = 0
        self._begin()

    @property
    def is_known(self) -> bool:
        """Whether the number of partitions is known, so that an account can be found."""
        return self._partition_count > 0

    def keys(self, account: str) -> PartitionKeys:
        """The keys of an account's partition. Requires `is_known`."""
        return PartitionKeys(self._prefix, partition_of(account.encode(), self._partition_count))

    def known_catalogs(self, before: int) -> AdoptedCatalogs | None:
        """The catalogs below an offset if they need not be read first; otherwise None."""
        return self._catalogs.known(before) or None

    def learn(self) -> None:
        """Learn the number of partitions. Raises GateUnavailable, GateMisconfigured."""
        count = self._answer("partitions", self._catalogs.partition_count)
        if count == 0:
            raise GateMisconfigured(
                f"there is no ledger with the prefix {self._prefix!r} on this Kafka: `usageledger "
                "up` makes one"
            )
        self._partition_count = count

    def catalogs(self, before: int) -> AdoptedCatalogs:
        """The answer to `CatalogsUpTo`. Raises GateUnavailable, GateMisconfigured."""
        found = self._answer(f"catalogs {before}", lambda: self._catalogs.up_to(before))
        if not found:
            raise GateMisconfigured(
                "no catalog has been published: publish one with `usageledger catalog publish FILE`"
            )
        return found

    def notice_fork(self) -> bool:
        """Begin anew in a forked child, and return whether this call did.

        Answers that the parent's threads wait for never come to the child.
        """
        if self._process == os.getpid():
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._process = os.getpid()
        self._catalogs = PublishedCatalogs(self._kafka, self._prefix)
        self._lock = Lock()
        self._asked: dict[str, Future[object]] = {}

    def be_patient(self) -> None:
        """Wait up to PATIENCE_S again, though a wait was in vain."""
        self._wait_s = PATIENCE_S

    def _answer(self, name: str, question: Callable[[], T]) -> T:
        """Kafka's answer. A question that waits for its answer already is not asked twice."""
        with self._lock:
            asked = self._asked.get(name)
            if asked is None:
                asked = self._asked[name] = Future()
                Thread(
                    target=_answer_into,
                    args=(asked, question),
                    name=f"usageledger-{name}",
                    daemon=True,
                ).start()
        wait_s = self._wait_s
        wait([asked], timeout=wait_s)
        if not asked.done():
            self._wait_s = self._timeout_s
            raise GateUnavailable(f"Kafka did not answer within {wait_s:g} s")
        with self._lock:
            self._asked.pop(name, None)
        try:
            # One name has one type of answer.
            answer: T = asked.result()  # type: ignore[assignment]
        except (KafkaError, LogUnreadable, OSError) as error:
            self._wait_s = self._timeout_s
            raise GateUnavailable(
                f"Kafka cannot be asked for the ledger's {name}: {error}"
            ) from error
        self._wait_s = PATIENCE_S
        return answer


def _answer_into(asked: Future[object], question: Callable[[], object]) -> None:
    try:
        asked.set_result(question())
    except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
        asked.set_exception(error)
