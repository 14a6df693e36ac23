"""The address of a limit event: the ledger entry it announces, and which of the entry's crossings.

Needs the standard library alone. The addresses of one partition grow with its ledger. A reader that
remembers the last one therefore knows that every event not beyond it is a repeat.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class LimitAddress:
    """Where a limit event comes from.

    ``offset`` is that of the entry in its partition of the ledger. ``index`` numbers the entry's
    ``crossings`` from 0.
    """

    partition: int
    offset: int
    index: int
    crossings: int

    @property
    def id(self) -> str:
        """The id of the limit event: the same each time that it is announced."""
        return f"{self.partition}-{self.offset}-{self.index}"

    def is_beyond(self, other: LimitAddress | None) -> bool:
        """Whether this comes after ``other`` (of the same partition) in the ledger.

        Everything comes after None.
        """
        return other is None or (self.offset, self.index) > (other.offset, other.index)


FIELDS = tuple(field.name for field in fields(LimitAddress))


class NotALimitEvent(ValueError):
    """A value is no limit event. The message says what is wrong with it."""


def read_limit_event(value: bytes | None) -> tuple[dict[str, Any], LimitAddress]:
    """Read the value of a record of ``limit.events``: the CloudEvent and its address.

    Raises NotALimitEvent.
    """
    try:
        event = json.loads(value or b"")
        entry = event["data"]["entry"]
        address = LimitAddress(*(_whole_number(entry, name) for name in FIELDS))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotALimitEvent(f"not a limit event ({type(error).__name__}: {error})") from None
    if event.get("id") != address.id:
        raise NotALimitEvent(
            f"the id {event.get('id')!r} is not that of the entry it names ({address.id})"
        )
    if not 0 <= address.index < address.crossings:
        raise NotALimitEvent(f"it names crossing {address.index} of {address.crossings}")
    if not (isinstance(event.get("type"), str) and isinstance(event["data"].get("account"), str)):
        raise NotALimitEvent("its type and data.account are text")
    return event, address


def limit_event_in(value: bytes | None, partition: int) -> tuple[dict[str, Any], LimitAddress]:
    """Read the value of a record of one partition of ``limit.events``: see `read_limit_event`.

    Raises NotALimitEvent also for an event of another partition.
    """
    event, address = read_limit_event(value)
    if address.partition != partition:
        raise NotALimitEvent(f"it is of partition {address.partition}")
    return event, address


def _whole_number(entry: dict[str, Any], name: str) -> int:
    number = entry[name]
    if type(number) is not int or number < 0:
        raise NotALimitEvent(f"data.entry.{name} is a whole number, not {number!r}")
    return number
