"""Sources for the gateway's account reader in tests: views in memory, or no server at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from tests.notation import SHIPPED
from usageledger.counters.calling import Call
from usageledger.counters.memory import MemoryView
from usageledger.counters.view import StoredHead, ViewError
from usageledger.domain.adopted_catalogs import AdoptedCatalogs

T = TypeVar("T")


class MemoryAccounts:
    """See `AccountSource`: one view in memory for each partition, and the test's catalogs."""

    def __init__(self, *views: MemoryView, catalogs: AdoptedCatalogs = SHIPPED) -> None:
        self.views = views
        self.catalogs = catalogs

    async def ask(self, partition: int, call: Call[T]) -> T:
        return self.views[partition].ask(call)

    async def heads(self, partitions: Iterable[int]) -> dict[int, StoredHead | None]:
        return {partition: self.views[partition].stored_head for partition in partitions}

    async def catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        return self.catalogs


class UnreachableAccounts:
    """See `AccountSource`: a gateway that needs no counters is tested, so none answer."""

    async def ask(self, partition: int, call: Call[T]) -> T:
        raise ViewError("there is no Redis in this test")

    async def heads(self, partitions: Iterable[int]) -> dict[int, StoredHead | None]:
        raise ViewError("there is no Redis in this test")

    async def catalogs_up_to(self, before: int) -> AdoptedCatalogs:
        raise AssertionError("without counters no catalogs are looked for")
