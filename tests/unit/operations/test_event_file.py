"""The record that each line of a file becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from usageledger.ledger.partitioning import partition_of
from usageledger.operations.event_file import NO_EVENT, OutgoingRecord, outgoing_records

PARTITIONS = 8


def line(**changes: Any) -> bytes:
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": "g1",
        "source": "/render",
        "subject": "acct_1",
        "time": "2025-02-01T10:00:00Z",
    }
    return json.dumps(event | changes).encode()


def records(*lines: bytes, importing: bool = False) -> list[OutgoingRecord]:
    return list(
        outgoing_records(
            [each + b"\n" for each in lines], partition_count=PARTITIONS, importing=importing
        )
    )


def times(lines: Iterable[bytes]) -> list[int | None]:
    return [record.timestamp_ms for record in records(*lines, importing=True)]


def test_a_usage_event_goes_to_the_usage_topic_under_its_account() -> None:
    (record,) = records(line())
    assert (record.input, record.type, record.key, record.value) == (
        "usage",
        "usage.recorded",
        b"acct_1",
        line(),
    )
    assert record.partition == partition_of(b"acct_1", PARTITIONS)


@pytest.mark.parametrize(
    "kind",
    [
        *("account.opened", "account.subscribed", "account.plan_changed", "account.cancelled"),
        *(
            "account.suspended",
            "account.resumed",
            "account.thresholds_set",
            "credits.granted",
            "usage.voided",
        ),
    ],
)
def test_an_account_event_goes_to_the_account_topic(kind: str) -> None:
    (record,) = records(line(type=kind))
    assert (record.input, record.type) == ("account", kind)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"not json", None),
        (b"[1, 2]", None),
        (b"null", None),
        (b"\xff\xfe", None),
        (b'{"subject": "acct_1"', None),
        (b"[" * 100_000, None),
        (line(subject=None), None),
        (line(subject=7), None),
        (line(subject=""), None),
        (b'{"type": "usage.recorded", "subject": "\\ud800"}', None),
        (line(type="account.frobbed"), b"acct_1"),
        (line(type="catalog.published"), b"acct_1"),
        (line(type=None), b"acct_1"),
        (line(type=["usage.recorded"]), b"acct_1"),
    ],
)
def test_a_line_that_is_no_event_is_sent_as_it_is_so_that_the_ledger_refuses_it(
    value: bytes, key: bytes | None
) -> None:
    (record,) = records(value)
    assert (record.input, record.key, record.value) == ("usage", key, value)
    assert record.partition == (0 if key is None else partition_of(key, PARTITIONS))


def test_a_line_of_unknown_type_is_counted_as_no_event_whatever_its_type_says() -> None:
    assert [record.type for record in records(line(type="x" * 1_000), line(type=3), b"{}")] == [
        NO_EVENT
    ] * 3


def test_blank_lines_are_passed_over_and_counted_as_lines() -> None:
    assert [record.line for record in records(line(), b"", b"  \r", line())] == [1, 4]


def test_the_end_of_a_line_is_not_part_of_the_record() -> None:
    assert [
        record.value
        for record in outgoing_records(
            [line() + b"\r\n", line()], partition_count=1, importing=False
        )
    ] == [line(), line()]


def test_kafka_dates_the_records_of_a_live_ledger() -> None:
    assert records(line())[0].timestamp_ms is None


def test_in_import_mode_a_record_has_its_events_own_time() -> None:
    assert times(
        [
            line(time="2024-12-31T23:59:59Z"),
            line(time="2025-02-01T10:00:00Z"),
            line(time="2025-02-01T11:00:00.250999+01:00"),
        ]
    ) == [
        1_735_689_599_000,
        1_738_404_000_000,
        1_738_404_000_250,
    ]


def test_in_import_mode_a_late_line_is_dated_by_the_line_before_it() -> None:
    """It is dated by the newest line before it in its own partition.

    With its own date it was decided before or after an earlier account event, depending on which
    topic the processor read first. Two imports of the same file gave two balances.
    """
    other = next(
        f"acct_{n}"
        for n in range(100)
        if partition_of(f"acct_{n}".encode(), PARTITIONS) != partition_of(b"acct_1", PARTITIONS)
    )
    opened = line(type="account.opened", time="2025-02-01T10:00:00Z")
    late, others_own = (
        line(time="2025-01-30T10:00:00Z"),
        line(subject=other, time="2025-01-30T10:00:00Z"),
    )
    assert times([opened, late, others_own]) == [
        1_738_404_000_000,
        1_738_404_000_000,
        1_738_231_200_000,
    ]


def test_in_import_mode_an_account_event_after_usage_is_dated_after_it() -> None:
    """Within one millisecond the processor merges account events before usage."""
    subscribed = line(type="account.subscribed")
    assert times([subscribed, line(), subscribed, line(), line()]) == [
        1_738_404_000_000 + n for n in (0, 0, 1, 1, 1)
    ]


@pytest.mark.parametrize(
    "time", ["2025-02-01T10:00:00", "yesterday", "", None, 5, {"a": 1}, "2025-02-30T10:00:00Z"]
)
def test_in_import_mode_a_line_with_no_readable_time_is_dated_like_the_line_before(
    time: object,
) -> None:
    assert (
        times([line(time="2025-02-01T10:00:00Z"), line(time=time), b"not json"])
        == [1_738_404_000_000] * 3
    )


def test_in_import_mode_a_time_before_1970_becomes_1970() -> None:
    assert times([b"not json", line(time="1931-01-01T00:00:00Z")]) == [0, 0]
