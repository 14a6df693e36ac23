"""Inputs after decoding, and why long runs of malformed records share one entry.

An entry has several hundred bytes, and a malformed record can have one. With an entry for each, any
writer of an input topic could fill the log with junk. A few malformed records in a row still have
an entry each, as a client that made a mistake expects.

How the records are grouped is the owner's choice, and part of its decision. An audit takes the
groups from the ledger, and checks that each of their records is malformed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from usageledger.domain.entry import InputRun, Topic
from usageledger.domain.events import AnyEvent
from usageledger.domain.refusal import Refusal
from usageledger.ledger.decoding import Malformed

RUN_RECORDS_MIN = 9
"""The fewest malformed records in a row that share an entry."""


class NotDecoded(NamedTuple):
    """The error that the decoder raised on a record.

    The decoder is at fault, not the record as with `Malformed`, so this is no refusal.
    """

    error: Exception


class DecodedInput(NamedTuple):
    """A record's address and the event in its bytes.

    ``appended_at`` is the ledger's time when it is decided, if the inputs are decided in order. A
    malformed event may stand for several records; the address and the time are the last one's.
    """

    topic: Topic
    offset: int
    appended_at: datetime
    event: AnyEvent | Malformed | NotDecoded


def with_runs_merged(inputs: list[DecodedInput]) -> list[DecodedInput]:
    """The inputs, with one for each long run of malformed records."""
    if not any(isinstance(item.event, Malformed) for item in inputs):
        return inputs
    merged: list[DecodedInput] = []
    for is_malformed, group in groupby(inputs, key=lambda item: isinstance(item.event, Malformed)):
        items = list(group)
        if is_malformed and len(items) >= RUN_RECORDS_MIN:
            merged.append(malformed_run(items))
        else:
            merged += items
    return merged


def malformed_run(items: Sequence[DecodedInput]) -> DecodedInput:
    """One input for malformed records in a row, whose detail is the first one's.

    Raises NotMalformed for a record that is an event.
    """
    events: list[Malformed] = []
    for item in items:
        if not isinstance(item.event, Malformed):
            raise NotMalformed(item.offset)
        events.append(item.event)
    reasons = Counter(event.refusal.value for event in events)
    accounts = {event.account for event in events}
    run = InputRun(first_offset=items[0].offset, records=len(items), reasons=dict(reasons))
    event = Malformed(
        refusal=events[0].refusal if len(reasons) == 1 else Refusal.MALFORMED_RECORDS,
        detail=events[0].detail,
        account=accounts.pop() if len(accounts) == 1 else "",
        run=run,
    )
    return items[-1]._replace(event=event)


class NotMalformed(Exception):
    """A record of a run can be decoded. ``offset`` is its offset."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the record at offset {offset} is an event")
        self.offset = offset
