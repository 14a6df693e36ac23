"""How a processor worker is doing, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from usageledger.processor.feed import PartitionFeed
from usageledger.processor.inputs import InputBuffer, Source
from usageledger.processor.reused_ids import ReusedIds
from usageledger.runtime.telemetry import Figure, Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionHealth:
    """How one assigned partition is doing.

    ``state`` is its owner's (claiming, catching_up, running, …) or ``stopped``, with the reason in
    ``stopped_because``. While it waits for Redis, ``waiting_because`` says why. A lag is the number
    of an input's records that are known to await a decision; None while that is unknown.
    """

    partition: int
    state: str
    stopped_because: str | None
    usage_lag_records: int | None
    account_lag_records: int | None
    no_progress_s: float = 0.0
    """For how long there was something to do and nothing was done."""
    catch_up: tuple[int, int] | None = None
    """While the view catches up: the ledger offset that it has reached, and where it will end."""
    decided: Mapping[str, int] = field(default_factory=dict)
    """By input, ``usage`` and ``account``: the offset of the record that is decided next."""
    waiting_because: str | None = None
    ledger_end: int | None = None
    """The end of the ledger partition as its owner knows it: it appends there next."""
    ids_reused: int = 0
    """How many events with an id that had been used for other content its owner has refused."""
    last_id_reused: str | None = None


class _OwnerState(Protocol):
    @property
    def inputs(self) -> InputBuffer: ...

    @property
    def waiting_because(self) -> str | None: ...

    @property
    def catch_up_progress(self) -> tuple[int, int] | None: ...

    @property
    def ledger_end(self) -> int | None: ...

    @property
    def reused_ids(self) -> ReusedIds: ...


def partition_health(
    partition: int,
    state: str,
    stopped_because: str | None,
    feed: PartitionFeed,
    owner: _OwnerState,
) -> PartitionHealth:
    """The health of a partition as its feed and its owner know it."""
    return PartitionHealth(
        partition=partition,
        state=state,
        stopped_because=stopped_because,
        usage_lag_records=feed.lag_records(Source.USAGE),
        account_lag_records=feed.lag_records(Source.ACCOUNT),
        no_progress_s=feed.stuck_s(owner.inputs) if state == "running" else 0.0,
        catch_up=owner.catch_up_progress,
        waiting_because=None if stopped_because else owner.waiting_because,
        decided={source.value: feed.next_offset(source) for source in Source},
        ledger_end=owner.ledger_end,
        ids_reused=owner.reused_ids.count,
        last_id_reused=owner.reused_ids.last,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHealth:
    """The partitions that are assigned to a worker now, by number."""

    partitions: tuple[PartitionHealth, ...]
    redis_trouble: str | None = None
    """Why Redis refuses even small writes, and what to do; None while it accepts them."""

    def report(self) -> Report:
        """The worker's readiness and figures.

        A worker without partitions is not ready: perhaps other workers have them all.
        """
        stopped = [
            f"partition {each.partition} stopped: {each.stopped_because}"
            for each in self.partitions
            if each.stopped_because
        ]
        waiting = Counter(each.waiting_because for each in self.partitions if each.waiting_because)
        waits = [
            f"{count} partition{' waits' if count == 1 else 's wait'}: {because}"
            for because, count in waiting.items()
        ]
        trouble = [self.redis_trouble] if self.redis_trouble else []
        return Report(
            unready=(*stopped, *waits, *trouble)
            if self.partitions
            else ("no partition is assigned to it", *trouble),
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
                f"The offset up to which the {input_} events of a partition are decided",
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
            "The end of a ledger partition: it rises with each entry that is appended",
            ends,
            label="partition",
        )
        yield Figure(
            "ids_reused",
            "Events refused because their id was used before for other content, by partition. "
            "Counted since the owner of the partition started",
            {str(each.partition): each.ids_reused for each in self.partitions},
            label="partition",
            is_total=True,
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
