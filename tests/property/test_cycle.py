"""Periods tile time, whatever the anchor, the zone and the month.

No boundary drifts from the anchor's local day and time.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from usageledger.domain.cycle import boundary, boundary_after, period_containing, zone

MICROSECOND = timedelta(microseconds=1)
ZONES = [
    "UTC",
    "America/New_York",
    "America/Santiago",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Pacific/Kiritimati",
]

zones = st.sampled_from(ZONES)
SINCE = datetime(1990, 1, 1, tzinfo=UTC)
moments = st.timedeltas(timedelta(0), timedelta(days=70 * 365)).map(lambda passed: SINCE + passed)
month_counts = st.integers(-600, 600)


def transitions(time_zone: str, first_year: int, last_year: int) -> list[datetime]:
    """The times at which a zone's offset changes, to the second."""
    tz, found = zone(time_zone), []
    at, end = datetime(first_year, 1, 1, tzinfo=UTC), datetime(last_year, 1, 1, tzinfo=UTC)
    while at < end:
        later = at + timedelta(days=7)
        if at.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            low, high = at, later
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
                is_before = middle.astimezone(tz).utcoffset() == at.astimezone(tz).utcoffset()
                low, high = (middle, high) if is_before else (low, middle)
            found.append(high)
        at = later
    return found


TRANSITIONS = [(name, at) for name in ZONES for at in transitions(name, 2005, 2030)]
near_transitions = st.tuples(
    st.sampled_from(TRANSITIONS),
    st.timedeltas(timedelta(hours=-25), timedelta(hours=25)),
    month_counts,
)


def expected_local(anchor: datetime, tz: ZoneInfo, months: int) -> datetime:
    """The anchor's local day and time some months later, by the calendar alone.

    It has no zone, and it may be a time that never existed.
    """
    local = anchor.astimezone(tz).replace(tzinfo=None)
    first = local.year * 12 + local.month - 1 + months
    year, month = first // 12, first % 12 + 1
    return datetime.combine(
        local.replace(year=year, month=month, day=1).date(), local.time()
    ) + timedelta(days=min(local.day, monthrange(year, month)[1]) - 1)


def instants_reading(wall: datetime, tz: ZoneInfo) -> list[datetime]:
    """Every instant at which clocks in the zone show ``wall``: none in a gap, two in an overlap.

    It tries all offsets that the zone has nearby.
    """
    nearby = [wall.replace(tzinfo=UTC) + timedelta(hours=hours) for hours in range(-50, 51)]
    offsets = {moment.astimezone(tz).utcoffset() or timedelta(0) for moment in nearby}
    candidates = {wall.replace(tzinfo=UTC) - offset for offset in offsets}
    return sorted(
        moment for moment in candidates if moment.astimezone(tz).replace(tzinfo=None) == wall
    )


def check_boundary(anchor: datetime, time_zone: str, months: int) -> None:
    tz = zone(time_zone)
    found = boundary(anchor, time_zone, months)
    wall = expected_local(anchor, tz, months)
    if months == 0:
        assert found == anchor
    elif instants := instants_reading(wall, tz):
        assert found == instants[0], "the first of a local time that occurs twice"
    else:
        # A time in a gap is moved on by the length of the gap. It is as far after the change of
        # the clocks as the missing time is after the local time of the change.
        moved = found.astimezone(tz).replace(tzinfo=None) - wall
        assert timedelta(0) < moved <= timedelta(hours=24)
        before = (found - moved).astimezone(tz).utcoffset()
        assert (
            before is not None
            and (found.astimezone(tz).utcoffset() or timedelta(0)) - before == moved
        )


@pytest.mark.peer_defect("Twenty, Autumn, dust")
@pytest.mark.parametrize("time_zone", ZONES)
@pytest.mark.parametrize("day", [28, 29, 30, 31])
def test_for_every_anchor_day_at_a_months_end_60_months_tile_time_without_drift(
    time_zone: str, day: int
) -> None:
    """Anchors are in each month of 2011 that has the day; Apia skipped one that December.

    They are at midnight, in the hour of a gap, and at the day's end.
    """
    for month, clock in (
        (m, c) for m in range(1, 13) for c in ((0, 0, 0, 0), (2, 15, 0, 0), (23, 59, 59, 999_999))
    ):
        if day > monthrange(2011, month)[1]:
            continue
        anchor = datetime(2011, month, day, *clock, tzinfo=zone(time_zone)).astimezone(UTC)
        wall = anchor.astimezone(zone(time_zone))
        boundaries = [boundary(anchor, time_zone, months) for months in range(61)]
        for months, (start, end) in enumerate(pairwise(boundaries)):
            assert start < end
            assert period_containing(anchor, time_zone, start) == (start, end)
            assert period_containing(anchor, time_zone, end - MICROSECOND) == (start, end)
            local = start.astimezone(zone(time_zone))
            if local.time() == wall.time():
                is_skipped = time_zone == "Pacific/Apia" and (
                    local.year,
                    local.month,
                    local.day,
                ) == (2011, 12, 31)
                assert is_skipped or local.day == min(
                    wall.day, monthrange(local.year, local.month)[1]
                ), months


@given(moments, zones, month_counts)
@example(datetime(2011, 11, 30, 20, tzinfo=UTC), "Pacific/Apia", 1)
@example(datetime(2009, 10, 1, 2, 30, 30, tzinfo=UTC), "America/St_Johns", 1)
def test_a_boundary_reads_as_the_anchor_does_or_is_the_gap_later(
    anchor: datetime, time_zone: str, months: int
) -> None:
    check_boundary(anchor, time_zone, months)


@given(near_transitions)
def test_a_boundary_near_a_change_of_the_clocks_follows_the_same_rules(
    near: tuple[tuple[str, datetime], timedelta, int],
) -> None:
    """The anchor is chosen so that the boundary is near the change."""
    (time_zone, change), offset, months = near
    anchor = boundary(change + offset, time_zone, -months)
    check_boundary(anchor, time_zone, months)


@given(moments, zones, month_counts)
def test_boundaries_ascend_by_a_months_length(
    anchor: datetime, time_zone: str, months: int
) -> None:
    length = boundary(anchor, time_zone, months + 1) - boundary(anchor, time_zone, months)
    assert timedelta(days=26) < length < timedelta(days=33)


def check_tiling(anchor: datetime, time_zone: str, at: datetime) -> None:
    start, end = period_containing(anchor, time_zone, at)
    assert start <= at < end
    assert boundary_after(anchor, time_zone, at) == end
    assert period_containing(anchor, time_zone, start) == (start, end)
    assert period_containing(anchor, time_zone, end - MICROSECOND) == (start, end)
    assert period_containing(anchor, time_zone, end)[0] == end
    assert period_containing(anchor, time_zone, start - MICROSECOND)[1] == start


@given(moments, zones, moments)
def test_every_time_is_in_exactly_one_period(
    anchor: datetime, time_zone: str, at: datetime
) -> None:
    check_tiling(anchor, time_zone, at)


@pytest.mark.peer_defect("Twenty, Autumn, dust")
@given(near_transitions, st.timedeltas(timedelta(hours=-25), timedelta(hours=25)))
@example(
    (("America/St_Johns", datetime(2009, 11, 1, 2, 31, tzinfo=UTC)), timedelta(seconds=-30), 1),
    timedelta(minutes=14),
)
def test_every_time_near_a_change_of_the_clocks_is_in_exactly_one_period(
    near: tuple[tuple[str, datetime], timedelta, int], later: timedelta
) -> None:
    (time_zone, change), offset, months = near
    check_tiling(boundary(change + offset, time_zone, -months), time_zone, change + later)


@given(moments, zones, st.integers(0, 120))
def test_month_by_month_boundaries_are_those_computed_at_once(
    anchor: datetime, time_zone: str, months: int
) -> None:
    """A renewal knows only the anchor and the last boundary. It must not drift."""
    at = anchor
    for _ in range(months):
        at = boundary_after(anchor, time_zone, at)
    assert at == boundary(anchor, time_zone, months)
