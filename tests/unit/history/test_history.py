"""The history's fold: the rows that each kind of entry adds, and its refusal of a log that has
changed.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.history_files import content, folded, memory_database, records_of
from tests.notation import Partition
from tests.worlds.decided_partition import JAN_31_MS, DecidedPartition
from usageledger.domain.chain import seal
from usageledger.domain.claim import claim_of, encode_claim
from usageledger.history.folding import FoldFailed, HistoryFold
from usageledger.history.reading import HistoryAbsent, HistoryReader, MalformedCursor
from usageledger.history.tables import (
    HISTORY_FILE,
    address_of,
    empty,
    entry_number_of,
    open_for_writing,
    throw_away,
)
from usageledger.ledger.reader_rule import RecordStops
from usageledger.ledger.records import Record
from usageledger.operations.refusals import refused_inputs

START = "2026-01-03T09:00"


def ledger(*lines: str) -> Partition:
    partition = Partition()
    for line in lines:
        partition.take(line)
    return partition


def history_of(*lines: str) -> sqlite3.Connection:
    return folded(records_of(ledger(*lines).entries), [1_000])


def daily_use(database: sqlite3.Connection) -> list[tuple[object, ...]]:
    return database.execute(
        "SELECT date, feature, model, uses, units, millionths, credits FROM daily_use ORDER BY "
        "period, date, feature, model"
    ).fetchall()


def test_uses_are_counted_by_day_feature_and_model() -> None:
    database = history_of(
        f"{START} subscribe max",
        "+1h use genai_video/veo_3",
        "+1h use genai_video/veo_3 2",
        "+1d use prompt_to_video 2.1",
    )
    assert daily_use(database) == [
        ("2026-01-03", "genai_video", "veo_3", 2, 3, 0, 96_000_000),
        ("2026-01-04", "prompt_to_video", "", 1, 2, 100_000, 24_000_000),
    ]


def test_a_void_takes_a_use_out_of_the_day_it_was_counted_in() -> None:
    database = history_of(
        f"{START} subscribe max",
        "+1h use genai_video/veo_3 id=g",
        "+2d use genai_video/veo_3",
        "+1h void g",
    )
    assert daily_use(database) == [
        ("2026-01-03", "genai_video", "veo_3", 0, 0, 0, 0),
        ("2026-01-05", "genai_video", "veo_3", 1, 1, 0, 32_000_000),
    ]


def test_a_use_that_was_voided_before_it_came_is_counted_in_no_day() -> None:
    assert (
        daily_use(
            history_of(f"{START} subscribe max", "+1h void g", "+1h use genai_video/veo_3 id=g")
        )
        == []
    )


def test_a_day_is_one_of_the_accounts_time_zone() -> None:
    database = history_of("2026-01-03T10:00 subscribe max zone=Pacific/Apia", "+1h use chat_action")
    assert [row[0] for row in daily_use(database)] == ["2026-01-04"]


def test_a_void_finds_the_day_of_its_use_though_the_time_zone_changed() -> None:
    database = history_of(
        "2026-01-03T11:30 use chat_action id=g",
        "+1m subscribe pro zone=Pacific/Apia",
        "+1m void g",
    )
    assert daily_use(database) == [("2026-01-03", "chat_action", "", 0, 0, 0, 0)]


def test_a_late_use_counts_in_its_own_period_and_on_its_own_day() -> None:
    database = history_of(
        f"{START} subscribe pro",
        "2026-02-03T10:00 use chat_action 5",
        "+1h use chat_action 7 on=2026-02-03T08:00",
    )
    rows = database.execute(
        "SELECT period, date, credits FROM daily_use ORDER BY period"
    ).fetchall()
    assert rows == [(1, "2026-02-03", 7_000_000), (2, "2026-02-03", 5_000_000)]
    assert database.execute("SELECT number, used FROM periods ORDER BY number").fetchall() == [
        (0, 0),
        (1, 7_000_000),
        (2, 5_000_000),
    ]


def test_no_quantity_is_too_large_to_be_summed() -> None:
    lines = [f"+1m use genai_sound/stable_audio_open {10**9}" for _ in range(30)] + [
        "+1m use genai_sound/stable_audio_open 0.000001"
    ]
    ((_, _, _, uses, units, millionths, credits),) = daily_use(
        history_of(f"{START} subscribe max", *lines)
    )
    assert (uses, units, millionths, credits) == (31, 30 * 10**9, 1, 0)


def test_an_account_says_since_when_and_why_it_is_blocked() -> None:
    partition = ledger(f"{START} subscribe pro", "+1h use chat_action 200")
    database = folded(records_of(partition.entries), [1])
    query = "SELECT is_blocked, blocked_since_us, blocked_reason FROM accounts"
    assert database.execute(query).fetchone() == (1, 1_767_434_400_000_000, "usage")
    partition.take("+1h grant 10")
    assert folded(records_of(partition.entries), [1]).execute(query).fetchone() == (0, None, None)


def test_a_refusal_is_resolved_by_what_comes_after_it_in_one_batch_or_in_two() -> None:
    partition = ledger(
        f"{START} subscribe max",
        "+1h use telepathy id=g",
        "+1h use telepathy id=h",
        "+1h use chat_action id=g",
    )
    records = records_of(partition.entries)
    for sizes in ([100], [1], [2]):
        found = (
            folded(records, sizes)
            .execute("SELECT id, reason, is_resolved FROM refusals ORDER BY entry_number")
            .fetchall()
        )
        assert found == [("g", "unknown_feature", 1), ("h", "unknown_feature", 0)]


def test_a_refusal_is_not_resolved_by_what_came_before_it() -> None:
    partition = ledger(
        f"{START} subscribe max", "+1h use chat_action id=g", "+1h use chat_action 2 id=g"
    )
    for sizes in ([100], [1]):
        found = (
            folded(records_of(partition.entries), sizes)
            .execute("SELECT reason, is_resolved FROM refusals")
            .fetchall()
        )
        assert found == [("id_reused_with_different_content", 0)]


def test_claims_and_what_lies_elsewhere_than_it_names_are_no_part_of_the_history() -> None:
    partition = ledger(f"{START} subscribe max", "+1h use chat_action")
    records = records_of(partition.entries)
    end = records[-1].offset + 1
    claim = Record(end, records[-1].timestamp_ms, None, encode_claim(claim_of(0, "ledger", "w")))
    superseded = Record(end + 1, records[-1].timestamp_ms, b"a", records[-1].value)
    database = memory_database()
    fold = HistoryFold(database)
    assert fold.add(0, [*records, claim, superseded]) == len(records)
    assert fold.position(0).next_offset == end + 2
    assert fold.position(0).entry_offset == end - 1
    assert database.execute("SELECT count(*) FROM charges").fetchone() == (len(records),)


@pytest.mark.parametrize("offset", [1, 2])
def test_records_that_do_not_begin_where_the_fold_stands_change_nothing(offset: int) -> None:
    records = records_of(ledger(f"{START} subscribe max", "+1h use chat_action").entries)
    database = memory_database()
    with pytest.raises(FoldFailed, match="offset 0 is missing"):
        HistoryFold(database).add(0, records[offset:])
    assert not any(content(database).values())


def test_an_entry_that_does_not_follow_the_last_one_stops_the_fold() -> None:
    mine = records_of(ledger(f"{START} subscribe max", "+1h use chat_action").entries)
    other = records_of(ledger(f"{START} subscribe pro", "+1h use chat_action").entries)
    fold = HistoryFold(memory_database())
    fold.add(0, mine[:1])
    before = fold.position(0)
    with pytest.raises(RecordStops, match="processor skip 0@2 --topic ledger"):
        fold.add(0, [mine[1], *other[2:]])
    assert fold.position(0) == before


def test_an_entry_that_cannot_be_folded_leaves_nothing_of_its_batch() -> None:
    """Its bytes and its chain are right, but it charges a period that no entry has opened."""
    partition = ledger(f"{START} subscribe max", "+1h use chat_action")
    partition.book.accounts["a"] = None
    records = records_of(partition.entries)
    database = memory_database()
    fold = HistoryFold(database)
    fold.add(0, records)
    before = content(database)
    strange = _late_without_a_previous_period(partition, records)
    with pytest.raises(FoldFailed, match="cannot be folded"):
        fold.add(0, strange)
    assert content(database) == before


def _late_without_a_previous_period(
    partition: Partition, records: Sequence[Record]
) -> list[Record]:
    draft = replace(
        partition.entries[-1].entry, account="b", plan_change=partition.entries[0].entry.plan_change
    )
    late = replace(partition.entries[-1].entry, account="b", is_late=True)
    sealed, _ = seal([draft, late], partition.book.head, 0)
    return records_of(sealed)


def test_an_entry_number_is_a_partition_and_an_offset() -> None:
    for partition, offset in ((0, 0), (3, 1_042), (999_999, 10**12 - 1)):
        assert address_of(entry_number_of(partition, offset)) == (partition, offset)
        assert entry_number_of(partition, offset) < 2**63


# The file
# ------------------------------------------------------------------------------------------


def write_history(path: Path, *lines: str) -> Partition:
    partition = ledger(*lines)
    database = open_for_writing(path)
    HistoryFold(database).add(0, records_of(partition.entries))
    database.close()
    return partition


def test_a_file_that_is_no_database_or_of_another_release_is_built_anew(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 100)
    assert open_for_writing(path).execute("SELECT count(*) FROM charges").fetchone() == (0,)
    write_history(path, f"{START} subscribe max")
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    assert open_for_writing(path).execute("SELECT count(*) FROM charges").fetchone() == (0,)


def test_nobody_else_on_the_machine_can_read_the_file(tmp_path: Path) -> None:
    open_for_writing(tmp_path / HISTORY_FILE).close()
    assert (tmp_path / HISTORY_FILE).stat().st_mode & 0o077 == 0


def test_forgetting_leaves_nothing_and_begins_at_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    partition = write_history(
        path, f"{START} subscribe max", "+1h use chat_action", "+1h use telepathy"
    )
    database = open_for_writing(path)
    empty(database)
    assert not any(content(database).values())
    assert HistoryFold(database).add(0, records_of(partition.entries)) == len(partition.entries)


def test_a_reader_without_a_file_says_so_and_finds_it_once_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    reader = HistoryReader(path)
    with pytest.raises(HistoryAbsent, match=r"there is no history\.db yet"):
        asyncio.run(reader.account("a", 0, 1))
    write_history(path, f"{START} subscribe max", "+1h use chat_action")
    assert asyncio.run(reader.account("a", 0, 1)).daily_use[0].credits == 1_000_000
    reader.close()


def test_a_reader_sees_the_new_file_where_the_old_one_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    write_history(path, f"{START} subscribe max", "+1h use chat_action")
    reader = HistoryReader(path)
    assert asyncio.run(reader.account("a", 0, 1)).daily_use[0].quantity == Decimal(1)
    throw_away(path)
    write_history(path, f"{START} subscribe max", "+1h use chat_action 3")
    assert asyncio.run(reader.account("a", 0, 1)).daily_use[0].quantity == Decimal(3)
    reader.close()


def test_a_list_goes_on_where_it_stopped_though_more_has_come(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    partition = ledger(
        f"{START} subscribe max", *(f"+1m use chat_action id=g{n}" for n in range(5))
    )
    database = open_for_writing(path)
    fold = HistoryFold(database)
    fold.add(0, records_of(partition.entries))
    reader = HistoryReader(path)
    first = asyncio.run(reader.charges("a", period=None, cursor=None, limit=3))
    partition.take("+1m use chat_action id=later")
    fold.add(0, records_of(partition.entries)[-1:])
    rest = asyncio.run(reader.charges("a", period=None, cursor=first.next_cursor, limit=50))
    assert [entry.offset for entry in (*first.items, *rest.items)] == list(range(6, -1, -1))
    assert rest.next_cursor is None
    reader.close()


def test_the_charges_of_a_period_are_those_that_count_in_it(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    write_history(
        path,
        f"{START} subscribe pro",
        "+1h use chat_action id=first",
        "2026-02-03T10:00 use chat_action id=second",
        "+1h use chat_action id=late on=2026-02-03T08:00",
        "2026-03-03T10:00 use chat_action id=third",
    )
    reader = HistoryReader(path)
    for period, ids in ((1, ["late", "first"]), (2, ["second"]), (3, ["third"]), (9, [])):
        page = asyncio.run(reader.charges("a", period=period, cursor=None, limit=50))
        assert [
            entry.event.id
            for entry in page.items
            if entry.kind == "usage" and entry.event is not None
        ] == ids
    reader.close()


def test_accounts_are_found_by_any_part_of_their_names(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    write_history(
        path,
        *(
            f"+1m use chat_action account={name}"
            for name in ("acct_1", "ACCT_2", "other%", "acct_3")
        ),
    )
    reader = HistoryReader(path)
    first = asyncio.run(reader.accounts(search="Acct", cursor=None, limit=2))
    rest = asyncio.run(reader.accounts(search="Acct", cursor=first.next_cursor, limit=2))
    assert [found.account for found in (*first.items, *rest.items)] == [
        "ACCT_2",
        "acct_1",
        "acct_3",
    ]
    assert first.items[0].last_used_at == datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
    assert [
        found.account
        for found in asyncio.run(reader.accounts(search="%", cursor=None, limit=9)).items
    ] == ["other%"]
    reader.close()


def test_refusals_are_listed_from_the_newest_on_by_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    write_history(
        path,
        f"{START} subscribe max",
        *(f"+1m use telepathy id=g{n}" for n in range(4)),
        "+1m use genai_video/veo_9 id=m",
        "+1m use chat_action id=g0",
    )
    reader = HistoryReader(path)

    def listed(**filters: object) -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while True:
            asked: dict[str, Any] = {"reason": None, "is_resolved": None} | filters
            page = asyncio.run(reader.refusals(**asked, cursor=cursor, limit=2))
            found += [item.event.id for item in page.items if item.event is not None]
            cursor = page.next_cursor
            if cursor is None:
                return found

    assert listed() == ["m", "g3", "g2", "g1", "g0"]
    assert listed(reason="unknown_model") == ["m"]
    assert listed(is_resolved=True) == ["g0"]
    entry = asyncio.run(reader.refusals(reason=None, is_resolved=None, cursor=None, limit=1)).items[
        0
    ]
    assert asyncio.run(reader.refusals_at([entry.entry, "0-0"])) == {entry.entry: entry}
    reader.close()


def test_a_run_of_malformed_records_is_listed_as_the_ledger_has_it(tmp_path: Path) -> None:
    ledger = DecidedPartition()
    junk = [Record(n, JAN_31_MS, b"acct_1", b"junk") for n in range(12)]
    (item,) = ledger.book.decode("usage", junk)
    ledger.entries += ledger.book.decide_input(item)
    database = open_for_writing(tmp_path / HISTORY_FILE)
    HistoryFold(database).add(0, records_of(ledger.entries))
    database.close()
    reader = HistoryReader(tmp_path / HISTORY_FILE)
    page = asyncio.run(reader.refusals(reason=None, is_resolved=None, cursor=None, limit=1))
    reader.close()
    assert page.items == refused_inputs(ledger.entries)


@pytest.mark.parametrize(
    "cursor", ["", "x", "1", "-1-1", "1-1x", "9999999-1", "1-9999999999999", "١-١", "1.1"]
)
def test_a_cursor_that_no_list_has_given_is_refused(cursor: str, tmp_path: Path) -> None:
    path = tmp_path / HISTORY_FILE
    write_history(path, f"{START} subscribe max")
    reader = HistoryReader(path)
    with pytest.raises(MalformedCursor):
        asyncio.run(reader.charges("a", period=None, cursor=cursor, limit=3))
    with pytest.raises(MalformedCursor):
        asyncio.run(reader.refusals(reason=None, is_resolved=None, cursor=cursor, limit=3))
    reader.close()
