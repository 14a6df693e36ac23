"""What a gate that asks Redis directly has to know of the ledger: how many partitions there are,
and the catalogs. Both lie in Kafka.
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
from usageledger.sdk.gate.answers import GateMisconfigured, GateUnavailable

T = TypeVar("T")

PATIENCE_S = 10.0


class LedgerFacts:
    """Kafka is asked at first, and again when a catalog has been adopted since: in a thread of its
    own, for a broker that is away takes its time to say so. What it answers late is there for who
    asks next. May be shared by threads.

    Waiting takes PATIENCE_S, and ``timeout_s`` from when it has been in vain until Kafka has
    answered again.
    """

    def __init__(self, kafka: str, prefix: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._wait_s = PATIENCE_S
        self._kafka = kafka
        self._prefix = prefix
        self._partition_count = 0
        self._begin()

    @property
    def is_known(self) -> bool:
        """Whether the partitions are known, so that an account can be found."""
        return self._partition_count > 0

    def partition(self, account: str) -> PartitionKeys:
        """Where an account's keys are; ``is_known`` comes first."""
        return PartitionKeys(self._prefix, partition_of(account.encode(), self._partition_count))

    def known_catalogs(self, before: int) -> AdoptedCatalogs | None:
        """Catalogs that need not be read first."""
        return self._catalogs.known(before) or None

    def learn(self) -> None:
        """Learn how many partitions there are. Raises GateUnavailable, GateMisconfigured."""
        count = self._answer("partitions", self._catalogs.partition_count)
        if count == 0:
            raise GateMisconfigured(
                f"there is no ledger with the prefix {self._prefix!r} on this Kafka: `usageledger "
                "up` makes one"
            )
        self._partition_count = count

    def catalogs(self, before: int) -> AdoptedCatalogs:
        """Catalogs as `CatalogsUpTo` asks for them. Raises GateUnavailable, GateMisconfigured."""
        found = self._answer(f"catalogs {before}", lambda: self._catalogs.up_to(before))
        if not found:
            raise GateMisconfigured(
                "no catalog has been published: publish one with `usageledger catalog publish FILE`"
            )
        return found

    def notice_fork(self) -> bool:
        """Whether this is a forked child that has not noticed yet.

        What its parent's threads were to answer never comes here.
        """
        if self._process == os.getpid():
            return False
        self._begin()
        return True

    def _begin(self) -> None:
        self._process = os.getpid()
        self._catalogs = PublishedCatalogs(self._kafka, self._prefix)
        self._turn = Lock()
        self._asked: dict[str, Future[object]] = {}

    def be_patient(self) -> None:
        """Wait for as long as at first, though it has been in vain."""
        self._wait_s = PATIENCE_S

    def _answer(self, name: str, question: Callable[[], T]) -> T:
        """What Kafka answers; a question that is on its way already is not asked twice."""
        with self._turn:
            asked = self._asked.get(name)
            if asked is None:
                asked = self._asked[name] = Future()
                Thread(
                    target=_carry_out,
                    args=(asked, question),
                    name=f"usageledger-{name}",
                    daemon=True,
                ).start()
        wait_s = self._wait_s
        wait([asked], timeout=wait_s)
        if not asked.done():
            self._wait_s = self._timeout_s
            raise GateUnavailable(f"Kafka did not answer within {wait_s:g} s")
        with self._turn:
            self._asked.pop(name, None)
        try:
            answer: T = asked.result()  # type: ignore[assignment]  # what is asked under one name has one type
        except (KafkaError, LogUnreadable, OSError) as error:
            self._wait_s = self._timeout_s
            raise GateUnavailable(
                f"Kafka cannot be asked for the ledger's {name}: {error}"
            ) from error
        self._wait_s = PATIENCE_S
        return answer


def _carry_out(asked: Future[object], question: Callable[[], object]) -> None:
    try:
        asked.set_result(question())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
        asked.set_exception(error)
