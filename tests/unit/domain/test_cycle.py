"""Where periods begin and end: one line for each boundary, in the account's local time."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import pytest

from usageledger.domain.cycle import (
    boundary,
    boundary_after,
    period_containing,
    rules_version,
    zone,
)

MICROSECOND = timedelta(microseconds=1)

# zone              anchor (local)      +n  boundary n (UTC)    why
BOUNDARIES = """
UTC                 2026-01-31T10:00    0   2026-01-31T10:00    the anchor itself
UTC                 2026-01-31T10:00    1   2026-02-28T10:00    clamped to the month's end
UTC                 2026-01-31T10:00    2   2026-03-31T10:00    without drift
UTC                 2026-01-31T10:00    3   2026-04-30T10:00    clamped
UTC                 2026-01-31T10:00    12  2027-01-31T10:00    a year on
UTC                 2026-01-31T10:00    25  2028-02-29T10:00    a leap year
UTC                 2026-01-31T10:00    -1  2025-12-31T10:00    the month before
UTC                 2026-01-31T10:00    -11 2025-02-28T10:00    clamped before the anchor as well
UTC                 2028-02-29T00:00    12  2029-02-28T00:00    29 February in a common year
UTC                 2028-02-29T00:00    48  2032-02-29T00:00    and in the next leap year
UTC                 2026-01-30T23:59:59.999999 1   2026-02-28T23:59:59.999999 microseconds are kept
Asia/Kathmandu      2026-01-31T00:10    1   2026-02-27T18:25    +05:45
Asia/Kathmandu      2026-01-31T00:10    2   2026-03-30T18:25    the local day counts, not UTC's
America/New_York    2026-01-31T22:00    1   2026-03-01T03:00    28 February there
America/New_York    2026-02-15T12:00    1   2026-03-15T16:00    the same local time in summer
America/New_York    2026-02-08T02:30    1   2026-03-08T07:30    02:30 does not exist: 03:30 EDT
America/New_York    2026-02-08T02:30    2   2026-04-08T06:30    it exists again a month on
America/New_York    2026-02-08T01:59:59.999999 1   2026-03-08T06:59:59.999999 just before the gap
America/New_York    2026-02-08T02:00    1   2026-03-08T07:00    the gap's first instant: 03:00 EDT
America/New_York    2026-02-08T03:00    1   2026-03-08T07:00    just after the gap
America/New_York    2026-10-01T01:30    1   2026-11-01T05:30    01:30 occurs twice: the first, EDT
America/New_York    2026-10-01T02:00    1   2026-11-01T07:00    02:00 occurs once, EST
Australia/Lord_Howe 2026-09-04T02:15    1   2026-10-03T15:45    a gap of half an hour: 02:45 +11
Australia/Lord_Howe 2027-03-04T01:45    1   2027-04-03T14:45    twice in half an hour: the first
Pacific/Apia        2011-11-30T10:00    1   2011-12-30T20:00    30 December was skipped: the 31st
Pacific/Apia        2011-11-30T10:00    2   2012-01-29T20:00    the 30th again
Pacific/Apia        2011-10-31T10:00    2   2011-12-30T20:00    the 31st was not skipped
America/Santiago    2026-08-06T00:30    1   2026-09-06T04:30    a gap at midnight: 01:30 -03
America/St_Johns    2009-10-01T00:00:30 1   2009-11-01T02:30:30 back over a month's end: the first
"""


def parsed_line(line: str) -> tuple[str, datetime, int, datetime]:
    time_zone, local, months, expected = line.split()[:4]
    anchor = datetime.fromisoformat(local).replace(tzinfo=zone(time_zone)).astimezone(UTC)
    return time_zone, anchor, int(months), datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize("line", BOUNDARIES.strip().splitlines())
def test_a_boundary_is_at_the_anchors_local_day_and_time(line: str) -> None:
    time_zone, anchor, months, expected = parsed_line(line)
    assert boundary(anchor, time_zone, months) == expected
    assert boundary(anchor, time_zone, months).tzinfo is UTC


@pytest.mark.parametrize("line", BOUNDARIES.strip().splitlines())
def test_a_period_begins_at_its_boundary_and_the_one_before_ends_there(line: str) -> None:
    time_zone, anchor, months, start = parsed_line(line)
    end = boundary(anchor, time_zone, months + 1)
    before = boundary(anchor, time_zone, months - 1)
    assert period_containing(anchor, time_zone, start - MICROSECOND) == (before, start)
    assert period_containing(anchor, time_zone, start) == (start, end)
    assert period_containing(anchor, time_zone, start + MICROSECOND) == (start, end)
    assert boundary_after(anchor, time_zone, start - MICROSECOND) == start
    assert boundary_after(anchor, time_zone, start) == end
    assert boundary_after(anchor, time_zone, end - MICROSECOND) == end


def test_an_anchor_at_the_second_of_two_equal_local_times_stays_where_it_is() -> None:
    """A subscription made at the second 01:30 does not begin an hour before it was made.

    A year later, the first 01:30 counts.
    """
    second = datetime(2026, 11, 1, 6, 30, tzinfo=UTC)
    first = second - timedelta(hours=1)
    assert boundary(second, "America/New_York", 0) == second
    assert period_containing(second, "America/New_York", second)[0] == second
    assert period_containing(second, "America/New_York", first) == (
        datetime(2026, 10, 1, 5, 30, tzinfo=UTC),
        second,
    )
    assert boundary(second, "America/New_York", 12) == datetime(2027, 11, 1, 5, 30, tzinfo=UTC)


def test_a_time_after_this_months_boundary_is_in_the_new_period_whatever_its_date() -> None:
    """St John's put its clocks back at 00:01 on 1 November 2009.

    For an hour it was October again there, after November's period had begun.
    """
    anchor = datetime(2009, 10, 1, 2, 30, 30, tzinfo=UTC)
    october_again = datetime(2009, 11, 1, 2, 45, tzinfo=UTC)
    assert october_again.astimezone(zone("America/St_Johns")).month == 10
    start, end = period_containing(anchor, "America/St_Johns", october_again)
    assert (start, end) == (
        datetime(2009, 11, 1, 2, 30, 30, tzinfo=UTC),
        datetime(2009, 12, 1, 3, 30, 30, tzinfo=UTC),
    )


def test_times_in_any_zone_are_the_same_instants() -> None:
    anchor = datetime(2026, 1, 31, 10, tzinfo=UTC)
    elsewhere = anchor.astimezone(zone("Pacific/Kiritimati"))
    assert boundary(elsewhere, "UTC", 1) == boundary(anchor, "UTC", 1)
    assert period_containing(elsewhere, "UTC", elsewhere) == period_containing(
        anchor, "UTC", anchor
    )


def test_a_time_without_a_zone_is_refused() -> None:
    aware = datetime(2026, 1, 31, tzinfo=UTC)
    naive = aware.replace(tzinfo=None)
    for ask in (
        lambda: boundary(naive, "UTC", 0),
        lambda: boundary(naive, "UTC", 1),
        lambda: period_containing(aware, "UTC", naive),
    ):
        with pytest.raises(ValueError, match="a time needs a zone"):
            ask()


@pytest.mark.parametrize(
    "name",
    [
        "Mars/Olympus",
        "",
        "europe/berlin",
        "../zones",
        "/etc/localtime",
        "Europe",
        "Europe/Berlin\n",
        "EST5EDT4",
        "zones",
    ],
)
def test_an_unknown_time_zone_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError) as refused:
        boundary(datetime(2026, 1, 31, tzinfo=UTC), name, 1)
    assert f"time zone {name!r} is not in the IANA database" in str(refused.value)


def test_zones_come_from_the_package_whatever_the_system_has(tmp_path: Path) -> None:
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Berlin").write_bytes(b"not a zone")
    zone.cache_clear()
    zoneinfo.ZoneInfo.clear_cache()
    try:
        zoneinfo.reset_tzpath(to=[str(tmp_path)])
        assert datetime(2026, 7, 1, tzinfo=zone("Europe/Berlin")).utcoffset() == timedelta(hours=2)
    finally:
        zoneinfo.reset_tzpath()
        zone.cache_clear()


def test_a_zone_is_read_once() -> None:
    assert zone("Europe/Berlin") is zone("Europe/Berlin")
    assert zone("Europe/Berlin").key == "Europe/Berlin"


def test_every_zone_of_the_release_can_be_read() -> None:
    names = resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split()
    assert len(names) > 500
    for name in names:
        assert zone(name).key == name


def test_the_release_of_the_rules_is_named() -> None:
    assert rules_version()[:4].isdigit()
    assert rules_version()[4:].isalpha()


@pytest.mark.parametrize(
    ("year", "months"), [(9999, 1), (1, -1), (2026, 12 * 9_000), (2026, -12 * 9_000)]
)
def test_a_boundary_beyond_the_years_that_can_be_written_is_refused(year: int, months: int) -> None:
    with pytest.raises(ValueError, match="beyond the years 1 to 9999"):
        boundary(datetime(year, 12 if months > 0 else 1, 15, tzinfo=UTC), "UTC", months)


@pytest.mark.parametrize(
    ("moment", "time_zone"),
    [("9999-12-31T23:59Z", "Asia/Tokyo"), ("0001-01-01T00:00Z", "America/New_York")],
)
def test_a_time_beyond_the_years_of_its_zone_is_refused(moment: str, time_zone: str) -> None:
    with pytest.raises(ValueError, match="beyond the years 1 to 9999"):
        period_containing(datetime.fromisoformat(moment), time_zone, datetime.fromisoformat(moment))
