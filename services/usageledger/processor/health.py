"""How a processor worker is doing, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHealth:
    """One assigned partition. ``state`` is its owner's (claiming, catching_up, running, …) or ``stopped``; a stopped one says why.

    The lags are how many records of each input are known to wait for their decision, None where that is not known at the moment.
    """

    partition: int
    state: str
    stopped_because: str | None
    usage_lag_records: int | None
    account_lag_records: int | None
    no_progress_s: float = 0.0
    """For how long there has been something to do and nothing was done."""
    catch_up: tuple[int, int] | None = None
    """While the view is caught up: the ledger offset that it has come to, and the one where that ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """The partitions that a worker owns now, by number."""

    partitions: tuple[PartitionHealth, ...]
