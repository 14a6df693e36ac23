"""The billing cycle: monthly periods that tile time exactly.

Each begins on the subscription's local day and time of day. Boundary k is that day and time k
months after the anchor. It is always computed from the anchor itself. A short month therefore
shortens its own period and no later one: 31 Jan, 28 Feb, 31 Mar. A local time that does not exist
moves forward by the length of the gap. A local time that occurs twice means its first occurrence.
Boundary 0 is the anchor itself, even at a second occurrence: a subscription never begins before it
was made.

Source: "Credits renew monthly based on subscription date" in the published rules. They say nothing
about the rest, which is this project's decision.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from functools import cache
from importlib import import_module, resources
from zoneinfo import ZoneInfo


def rules_version() -> str:
    """The IANA release by which boundaries are computed, such as ``2026f``.

    Another release can move boundaries, so a claim names it.
    """
    return str(import_module("tzdata").IANA_VERSION)


@cache
def zone(name: str) -> ZoneInfo:
    """The zone of that name.

    It is read from the ``tzdata`` package and never from the system's files, so that every machine
    computes the same boundaries. Raises ValueError for a name that the package does not have.
    """
    if name not in _zone_names():
        raise ValueError(
            f"time zone {name!r} is not in the IANA database (release {rules_version()}); give a "
            "name such as 'Europe/Berlin'"
        )
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as file:
        return ZoneInfo.from_file(file, key=name)


def boundary(anchor: datetime, time_zone: str, months: int) -> datetime:
    """The boundary ``months`` after the anchor (before it if negative), in UTC.

    It strictly increases with ``months``. Raises ValueError for an anchor without a zone, for an
    unknown zone, and for a boundary beyond the years 1 to 9999.
    """
    if months == 0:
        return _utc(anchor)
    local = _local(anchor, time_zone)
    year, month = divmod(local.year * 12 + local.month - 1 + months, 12)
    if not 1 <= year <= 9999:
        raise ValueError(
            f"{months} months after {anchor.isoformat()} is beyond the years 1 to 9999"
        )
    day = min(local.day, monthrange(year, month + 1)[1])
    # fold=0 gives the first occurrence of a time that occurs twice. A time in a gap it reads by the
    # offset before the gap, which moves the time forward by the gap's length.
    return _utc(local.replace(year=year, month=month + 1, day=day, fold=0))


def period_containing(anchor: datetime, time_zone: str, at: datetime) -> tuple[datetime, datetime]:
    """The half-open period ``[start, end)`` that contains ``at``, in UTC.

    Its ends are neighbouring boundaries, before the anchor too. Raises ValueError as ``boundary``
    does, and for a time without a zone.
    """
    months = _months_until(anchor, time_zone, at)
    return boundary(anchor, time_zone, months), boundary(anchor, time_zone, months + 1)


def boundary_after(anchor: datetime, time_zone: str, at: datetime) -> datetime:
    """The first boundary strictly after ``at``, in UTC.

    Raises ValueError as ``period_containing`` does.
    """
    return boundary(anchor, time_zone, _months_until(anchor, time_zone, at) + 1)


def _months_until(anchor: datetime, time_zone: str, at: datetime) -> int:
    """The greatest k whose boundary is not after ``at``."""
    start, local = _local(anchor, time_zone), _local(at, time_zone)
    # It is nearly always the boundary in the month of `at`, or the one before. The search begins
    # one later, for clocks that go back over a month's end. A time of the old month can then be
    # after a boundary of the new one (St John's, 1 November 2009).
    months = (local.year - start.year) * 12 + local.month - start.month + 1
    while boundary(anchor, time_zone, months) > at:
        months -= 1
    return months


def _local(moment: datetime, time_zone: str) -> datetime:
    try:
        return _utc(moment).astimezone(zone(time_zone))
    except OverflowError:
        raise ValueError(
            f"{moment.isoformat()} is beyond the years 1 to 9999 in {time_zone}"
        ) from None


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"a time needs a zone, unlike {moment.isoformat()}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is beyond the years 1 to 9999 in UTC") from None


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(
        resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    )
