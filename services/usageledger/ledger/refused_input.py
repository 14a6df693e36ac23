"""An input that the ledger refused, and the identity by which a later acceptance resolves it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from usageledger.domain.entry import InputAddress, InputRun, LedgerEntry, Topic


class EventIdentity(NamedTuple):
    """Which event an entry is about. ``topic`` is the input topic that the event came by."""

    topic: Topic
    account: str
    source: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedInput:
    """One input that the ledger refused, or a run of malformed ones.

    ``partition`` and ``offset`` address the ledger entry of the refusal, ``input`` the refused
    record, or the last one of a ``run``. ``account`` is empty where the record has no key.
    ``event`` is None where the input could not be read as an event. ``is_resolved``: the ledger has
    accepted the same event since.
    """

    partition: int
    offset: int
    appended_at: datetime
    account: str
    reason: str
    detail: str
    input: InputAddress
    event: EventIdentity | None
    feature: str | None = None
    model: str | None = None
    is_resolved: bool = False
    run: InputRun | None = None

    @property
    def entry(self) -> str:
        """The address of the refusal in the ledger: partition-offset."""
        return f"{self.partition}-{self.offset}"

    @property
    def place(self) -> str:
        """The address of the refused record: topic, partition-offset. Of a run, the first's."""
        return f"{self.input.topic} {self.input.partition}-{self.input_offsets[0]}"

    @property
    def input_offsets(self) -> range:
        """The offsets of the refused records. Those between the first and the last may be empty."""
        first = self.input.offset if self.run is None else self.run.first_offset
        return range(first, self.input.offset + 1)


def event_identity(entry: LedgerEntry) -> EventIdentity | None:
    """The identity of the event that an entry decides; None where there is none.

    A later entry of the same identity resolves a refusal, unless it is a refusal too.
    """
    if entry.input is None or entry.event is None:
        return None
    return EventIdentity(entry.input.topic, entry.account, entry.event.source, entry.event.id)
