"""How a processor worker is doing, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from usageledger.runtime.telemetry import Figure, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHealth:
    """One assigned partition.

    ``state`` is its owner's (claiming, catching_up, running, …) or ``stopped``; a stopped one says
    why.

    The lags are how many records of each input are known to wait for their decision, None where
    that is not known at the moment.
    """

    partition: int
    state: str
    stopped_because: str | None
    usage_lag_records: int | None
    account_lag_records: int | None
    no_progress_s: float = 0.0
    """For how long there has been something to do and nothing was done."""
    catch_up: tuple[int, int] | None = None
    """While the view is caught up: the ledger offset that it has come to, and the one where that
    ends.
    """
    decided: Mapping[str, int] = field(default_factory=dict)
    """By input, ``usage`` and ``account``: the offset of the record that is decided next."""
    ledger_end: int | None = None
    """Where its owner knows the ledger partition to end: what it appends next lies there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """The partitions that a worker owns now, by number."""

    partitions: tuple[PartitionHealth, ...]

    def report(self) -> Report:
        """What the worker tells who watches it.

        One without partitions does nothing, be it that others have them all.
        """
        stopped = [
            f"partition {each.partition} stopped: {each.stopped_because}"
            for each in self.partitions
            if each.stopped_because
        ]
        return Report(
            unready=tuple(stopped) if self.partitions else ("no partition is assigned to it",),
            figures=tuple(self._figures()),
        )

    def _figures(self) -> Iterator[Figure]:
        states = Counter(each.state for each in self.partitions)
        yield Figure("partitions", "Partitions that it owns, by state", states, label="state")
        lags = {
            "usage": sum(each.usage_lag_records or 0 for each in self.partitions),
            "account": sum(each.account_lag_records or 0 for each in self.partitions),
        }
        yield Figure(
            "lag_records", "Records known to wait for their decision, by input", lags, label="input"
        )
        for input_ in ("usage", "account"):
            decided = {
                str(each.partition): each.decided[input_]
                for each in self.partitions
                if input_ in each.decided
            }
            yield Figure(
                f"decided_{input_}_offset",
                f"Up to where the {input_} events of a partition are decided",
                decided,
                label="partition",
            )
        ends = {
            str(each.partition): each.ledger_end
            for each in self.partitions
            if each.ledger_end is not None
        }
        yield Figure(
            "ledger_offset",
            "Where its entries in a ledger partition end: it rises with each that is appended",
            ends,
            label="partition",
        )
        behind = [
            end - reached
            for each in self.partitions
            if each.catch_up is not None
            for reached, end in [each.catch_up]
        ]
        yield Figure(
            "catch_up_records",
            "Ledger records still to be folded before partitions run",
            {"": sum(behind)},
        )
        longest_s = max((each.no_progress_s for each in self.partitions), default=0.0)
        yield Figure(
            "no_progress_seconds",
            "For how long, at most, a partition had something to do and did nothing",
            {"": longest_s},
        )
