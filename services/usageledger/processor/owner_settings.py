"""The sizes and times by which a partition is owned."""

from __future__ import annotations

from dataclasses import dataclass

from usageledger.runtime.backoff import Backoff

CLAIM_AGAIN = Backoff.doubling(0.05, 5.0, spread=(0.5, 1.5))
VIEW_AGAIN = Backoff.doubling(0.05, 2.0, spread=(0.5, 1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerSettings:
    """Counts are of records, groups or accounts; times are in seconds."""

    records_per_step: int = 2_000
    """The most records of one input that are decided in one step."""

    due_per_step: int = 500
    """The most due accounts that one step acts on, and the most groups that fill a batch."""

    batches_in_flight: int = 2
    """How many decided batches may wait to be appended."""

    claim_again: Backoff = CLAIM_AGAIN
    """Two owners that supersede each other would otherwise do so again at the same moment."""

    view_again: Backoff = VIEW_AGAIN
    """How long to wait before a store that refused or did not answer is asked again."""

    verify_interval_s: float = 1.0
    """How often the view of an idle partition is verified."""

    records_per_commit: int = 5_000
    """While catching up, an account is encoded once in this many records.

    More would block the Redis server for longer, and with it others.
    """

    accounts_kept_max: int = 20_000
    """How many accounts stay in memory from one commit to the next while catching up."""

    look_back_records: int = 100
    """How many records at the end of a log are read first when its last entry is looked for."""

    catalog_wait_s: float = 30.0
    """How long the catalogs that the ledger has adopted may take to be read."""


DEFAULT_SETTINGS = OwnerSettings()
