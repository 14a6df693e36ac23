"""The place of a limit event: the ledger entry it announces, and which of that entry's crossings.

Needs the standard library alone.

Places of one partition grow with its ledger, so a reader that has seen one knows that whatever is
not beyond it is a repeat.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """``offset`` is that of the entry in its partition of the ledger; ``index`` counts its
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

    def is_beyond(self, other: Place | None) -> bool:
        """Whether this comes after ``other`` (of the same partition) in the ledger.

        Everything comes after None.
        """
        return other is None or (self.offset, self.index) > (other.offset, other.index)


FIELDS = tuple(field.name for field in fields(Place))


class NotALimitEvent(ValueError):
    """A value is no limit event. The message says what is wrong with it."""


def read_limit_event(value: bytes | None) -> tuple[dict[str, Any], Place]:
    """Read the value of a record of ``limit.events``: the CloudEvent, and its place.

    Raises NotALimitEvent.
    """
    try:
        event = json.loads(value or b"")
        entry = event["data"]["entry"]
        place = Place(*(_whole(entry, name) for name in FIELDS))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotALimitEvent(f"not a limit event ({type(error).__name__}: {error})") from None
    if event.get("id") != place.id:
        raise NotALimitEvent(
            f"the id {event.get('id')!r} is not that of the entry it names ({place.id})"
        )
    if not 0 <= place.index < place.crossings:
        raise NotALimitEvent(f"it names crossing {place.index} of {place.crossings}")
    if not (isinstance(event.get("type"), str) and isinstance(event["data"].get("account"), str)):
        raise NotALimitEvent("its type and data.account are text")
    return event, place


def _whole(entry: dict[str, Any], name: str) -> int:
    number = entry[name]
    if type(number) is not int or number < 0:
        raise NotALimitEvent(f"data.entry.{name} is a whole number, not {number!r}")
    return number
