"""Measures folding the ledger into ``history.db``, also as a ratio to parsing the same entries.

    python -m tests.benchmarks.history_fold [--entries 100000] [--batch 5000]

A made-up partition of 5,000 accounts (see `made_up_ledger`), in batches as a poll brings them, into
a file in a temporary directory. The times are the processor's and the wall
clock's, which includes the disk. Other work on the machine makes them longer, never shorter.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.made_up_ledger import make_ledger
from usageledger.domain.chain import entry_at
from usageledger.history.folding import HistoryFold
from usageledger.history.tables import HISTORY_FILE, open_for_writing
from usageledger.ledger.records import Record


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=5_000)
    asked = parser.parse_args()
    records = make_ledger(asked.entries).log.records
    batches = [
        records[begin : begin + asked.batch] for begin in range(0, len(records), asked.batch)
    ]
    parsing = _measure(
        lambda: [entry_at(record.offset, record.value) for batch in batches for record in batch]
    )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / HISTORY_FILE
        folding = _measure(lambda: _fold(path, batches))
        size = sum(file.stat().st_size for file in Path(directory).iterdir())
    print(f"{'':10}{'µs an entry':>14}{'entries/s':>12}{'x parsing':>12}{'wall µs':>10}")
    for name, (processor_s, wall_s) in (("parsing", parsing), ("folding", folding)):
        cost_us = processor_s * 1e6 / asked.entries
        print(
            f"{name:10}{cost_us:14.2f}{1e6 / cost_us:12,.0f}{processor_s / parsing[0]:12.2f}"
            f"{wall_s * 1e6 / asked.entries:10.2f}"
        )
    print(
        f"{size / asked.entries:.0f} bytes an entry on disk, of "
        f"{sum(len(r.value or b'') for r in records) / asked.entries:.0f} in the log"
    )


def _fold(path: Path, batches: Sequence[Sequence[Record]]) -> None:
    database = open_for_writing(path)
    fold = HistoryFold(database)
    for batch in batches:
        fold.add(0, batch)
    database.close()


def _measure(step: Callable[[], object]) -> tuple[float, float]:
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - began_s, time.perf_counter() - began_wall_s


if __name__ == "__main__":
    main()
