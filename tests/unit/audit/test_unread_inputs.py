"""An audit follows an operator who has skipped a batch that nobody can read."""

from __future__ import annotations

import pytest

from tests.unit.ledger.test_decoded_input import USE, audited, forged, new_book, records
from usageledger.audit.replay import Difference
from usageledger.domain.chain import SealedEntry
from usageledger.domain.entry import InputRun

BEFORE, AFTER = records(USE), records(b"junk", first=4)
"""The records at the offsets 1 to 3 are a batch that cannot be read."""


def ledger_of(offsets: range) -> list[SealedEntry]:
    book = new_book()
    entries = [
        sealed for item in book.decode("usage", BEFORE) for sealed in book.decide_input(item)
    ]
    entries += book.skip_unreadable("usage", offsets, reason="a bomb", detail="too large")
    return entries + [
        sealed for item in book.decode("usage", AFTER) for sealed in book.decide_input(item)
    ]


def test_a_skipped_batch_is_no_difference_and_its_offsets_count_as_skipped() -> None:
    replay = audited([*BEFORE, *AFTER], ledger_of(range(1, 4)))
    assert (replay.counts.inputs, replay.counts.skipped_inputs) == (5, 3)
    assert (replay.counts.accepted_inputs, replay.counts.refused_inputs) == (1, 1)


def test_a_skip_that_leaves_out_what_comes_before_its_batch_is_a_difference() -> None:
    with pytest.raises(Difference, match="from offset 2 on, but the next input is at offset 1"):
        audited([*BEFORE, *AFTER], ledger_of(range(2, 4)))


def test_a_skip_that_counts_other_records_than_its_offsets_is_a_difference() -> None:
    entries = ledger_of(range(1, 4))
    skip = next(each for each in entries if each.entry.kind == "skip")
    wrong = forged(skip, lambda _: InputRun(first_offset=1, records=2, reasons={}))
    before = entries[: entries.index(skip)]
    with pytest.raises(Difference):
        audited([*BEFORE, *AFTER], [*before, *wrong])
