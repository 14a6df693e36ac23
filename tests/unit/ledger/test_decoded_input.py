"""Malformed records in a row share an entry, and an audit checks each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from tests.worlds.decided_partition import JAN_31_MS, DecidedPartition
from usageledger.audit.replay import Difference, PartitionReplay
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.chain import SealedEntry, seal
from usageledger.domain.entry import InputRun, LedgerEntry, Topic
from usageledger.domain.head import Head
from usageledger.ledger.decoded_input import RUN_RECORDS_MIN
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record

FEW = RUN_RECORDS_MIN - 1
USE = DecidedPartition().event(
    "usage.recorded", "u1", {"feature": "genai_video", "model": "veo_3", "quantity": "1"}
)


def records(*values: bytes, first: int = 0) -> list[Record]:
    return [Record(first + n, JAN_31_MS + n, b"acct_1", value) for n, value in enumerate(values)]


def new_book() -> PartitionBook:
    book = PartitionBook(0, 1, Head(ledger="l"), AdoptedCatalogs((load_shipped_catalog(),)))
    book.accounts["acct_1"] = None
    return book


def decided(chunk: Sequence[Record]) -> list[LedgerEntry]:
    book = new_book()
    return [
        sealed.entry for item in book.decode("usage", chunk) for sealed in book.decide_input(item)
    ]


def test_a_few_malformed_records_have_an_entry_each() -> None:
    entries = decided(records(*[b"junk"] * FEW))
    assert [entry.run for entry in entries] == [None] * FEW


def test_malformed_records_in_a_row_are_one_entry_that_counts_them() -> None:
    (entry,) = decided(records(*[b"junk"] * RUN_RECORDS_MIN, first=40))
    assert (entry.kind, entry.reason, entry.account) == ("refusal", "not_json", "acct_1")
    assert entry.run == InputRun(
        first_offset=40, records=RUN_RECORDS_MIN, reasons={"not_json": RUN_RECORDS_MIN}
    )
    assert entry.input_offsets == range(40, 40 + RUN_RECORDS_MIN)


def test_records_that_break_different_rules_are_counted_by_rule() -> None:
    (entry,) = decided(records(*[b"junk", b"", b"[]"] * 4))
    assert entry.reason == "malformed_records"
    assert entry.run is not None
    assert entry.run.reasons == {"not_json": 4, "empty_record": 4, "not_a_cloudevent": 4}


def test_an_event_between_malformed_records_is_decided_by_itself() -> None:
    entries = decided(records(*[b"junk"] * RUN_RECORDS_MIN, USE, *[b"junk"] * RUN_RECORDS_MIN))
    assert [entry.kind for entry in entries] == ["refusal", "account_opened", "usage", "refusal"]


def test_the_next_input_follows_the_last_record_of_a_run() -> None:
    book = new_book()
    for item in book.decode("usage", records(*[b"junk"] * 20, first=7)):
        book.decide_input(item)
    assert book.head.usage_next == 27


def test_150_kb_of_junk_add_less_than_300_kb_to_the_ledger() -> None:
    """150 KB of one-byte records, about 9 bytes each in a batch, made 58 MB of entries."""
    book, written = new_book(), 0
    junk = records(*[bytes([65 + n % 2]) for n in range(150 * 1024 // 9)])
    for at in range(0, len(junk), 5_000):
        for item in book.decode("usage", junk[at : at + 5_000]):
            written += sum(len(sealed.value) for sealed in book.decide_input(item))
    assert written < 300 * 1024


def audited(inputs: Sequence[Record], ledger: Sequence[SealedEntry]) -> PartitionReplay:
    def read(topic: Topic, offset: int) -> Record | None:
        return next((record for record in inputs if record.offset >= offset), None)

    replay = PartitionReplay(0, 1, read)
    replay.book.catalogs = AdoptedCatalogs((load_shipped_catalog(),))
    replay.book.accounts["acct_1"] = None
    for _ in replay.verified_entries(
        [Record(each.entry.offset, JAN_31_MS, b"acct_1", each.value) for each in ledger]
    ):
        pass
    return replay


def ledger_of(chunk: Sequence[Record]) -> list[SealedEntry]:
    book = new_book()
    return [sealed for item in book.decode("usage", chunk) for sealed in book.decide_input(item)]


def test_an_audit_counts_each_record_of_a_run() -> None:
    inputs = records(*[b"junk", b""] * 10, USE)
    counts = audited(inputs, ledger_of(inputs)).counts
    assert (counts.inputs, counts.refused_inputs, counts.accepted_inputs) == (21, 20, 1)
    assert counts.refused == {"not_json": 10, "empty_record": 10}


@pytest.mark.parametrize(
    ("forge", "problem"),
    [
        (lambda run: replace(run, records=run.records - 1), "the next input is at offset"),
        (lambda run: replace(run, records=run.records + 1), "which its topic does not hold"),
        (lambda run: replace(run, first_offset=1), "run is"),
        (lambda run: replace(run, reasons={"not_json": 99}), "run is"),
    ],
    ids=["too few", "too many", "another first", "another count"],
)
def test_an_audit_finds_a_run_that_does_not_fit_its_records(
    forge: Callable[[InputRun], InputRun], problem: str
) -> None:
    inputs = records(*[b"junk"] * 12)
    with pytest.raises(Difference, match=problem):
        audited(inputs, forged(ledger_of(inputs)[0], forge))


def test_an_audit_finds_an_event_that_was_passed_over_as_malformed() -> None:
    junk = records(*[b"junk"] * 12)
    with_an_event = [*junk[:5], junk[5]._replace(value=USE), *junk[6:]]
    with pytest.raises(Difference, match="refuses malformed records, but the record at offset 5"):
        audited(with_an_event, ledger_of(junk))


def forged(sealed: SealedEntry, forge: Callable[[InputRun], InputRun]) -> Any:
    """The entry with another run, sealed as its owner would."""
    assert sealed.entry.run is not None
    draft = replace(
        sealed.entry, run=forge(sealed.entry.run), offset=-1, partition=-1, previous_hash=""
    )
    return seal([draft], Head(ledger="l"), 0, sealed.entry.input)[0]
