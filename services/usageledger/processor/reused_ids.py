"""Events that were refused because their id had been used before, for other content.

One is an accident of a sender. Many are two services with one source, or somebody who tries ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from usageledger.domain.chain import SealedEntry
from usageledger.domain.refusal import Refusal


class ReusedIds:
    """How many such refusals an owner has appended since its process started, and the last one."""

    def __init__(self) -> None:
        self.count = 0
        self.last: str | None = None
        """Account, source and id of the last such event."""

    def note(self, groups: Iterable[Sequence[SealedEntry]]) -> None:
        """Count those among the entries that were appended."""
        for entry in (sealed.entry for group in groups for sealed in group):
            if entry.reason == Refusal.ID_REUSED.value and entry.event is not None:
                self.count += 1
                self.last = f"{entry.account} {entry.event.source} {entry.event.id}"
