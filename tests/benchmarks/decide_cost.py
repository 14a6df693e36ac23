"""Measures deciding, in µs an event on one core and as ratios to ``json.loads`` of the events.

    python -m tests.benchmarks.decide_cost [--rounds 20]

The input is usage of 500 accounts in chunks of 1,000 events, as a processor decides them. Each
figure is the processor time of the best round, because other work on the machine makes a round
slower, never faster. ``decide`` and ``seal`` are parts of ``whole``. That is `decide_input`, which
also looks identities up, remembers them and notes due dates.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable

from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.catalog_document import load_shipped_catalog
from usageledger.domain.chain import seal
from usageledger.domain.decide import decide
from usageledger.domain.head import Head
from usageledger.ledger.decoded_input import DecodedInput, NotDecoded
from usageledger.ledger.decoding import Malformed
from usageledger.ledger.partition_book import PartitionBook
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import time_of

ACCOUNTS = 500
CHUNK = 1_000
STEPS = ("json.loads", "decode", "decide", "seal", "whole")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    best = measure(parser.parse_args().rounds)
    print(f"{'':12}{'µs an event':>14}{'x json.loads':>14}")
    for step in STEPS:
        print(f"{step:12}{best[step]:14.2f}{best[step] / best['json.loads']:14.2f}")


def measure(rounds: int) -> dict[str, float]:
    """The µs per event of each step in its best round."""
    rng = random.Random(20261124)
    book = PartitionBook(0, 1, Head(ledger="benchmark"), AdoptedCatalogs((load_shipped_catalog(),)))
    best = dict.fromkeys(STEPS, float("inf"))
    # The first round warms up: it opens every account and hashes every key.
    for number in range(rounds + 1):
        for step, cost in _round(
            book, [_record(rng, number * CHUNK + n) for n in range(CHUNK)]
        ).items():
            best[step] = cost if number == 0 else min(best[step], cost)
    return best


def _round(book: PartitionBook, records: list[Record]) -> dict[str, float]:
    items: list[DecodedInput] = []
    costs = {
        "json.loads": _cost_us(lambda: [json.loads(record.value or b"") for record in records]),
        "decode": _cost_us(lambda: items.extend(book.decode("usage", records))),
    }
    drafts = []

    def decide_all() -> None:
        for item in items:
            assert not isinstance(item.event, (Malformed, NotDecoded))
            state = book.accounts.get(item.event.account)
            drafts.append(
                decide(
                    item.event,
                    state=state,
                    identity=None,
                    appended_at=item.appended_at,
                    catalogs=book.catalogs,
                ).entries
            )

    costs["decide"] = _cost_us(decide_all)
    costs["seal"] = _cost_us(lambda: [seal(entries, book.head, 0) for entries in drafts])
    costs["whole"] = _cost_us(lambda: [book.decide_input(item) for item in items])
    book.take_changes()
    book.identities.clear()  # as the owner does once a chunk is committed
    return costs


def _cost_us(step: Callable[[], object]) -> float:
    started = time.process_time_ns()
    step()
    return (time.process_time_ns() - started) / 1_000 / CHUNK


def _record(rng: random.Random, number: int) -> Record:
    timestamp_ms = 1_764_000_000_000 + number * 10
    account = f"acct_{rng.randrange(ACCOUNTS)}"
    at = time_of(timestamp_ms).isoformat()
    event = {
        "specversion": "1.0",
        "type": "usage.recorded",
        "id": f"gen_{number:012d}",
        "source": "/render",
        "subject": account,
        "time": at,
        "recordedtime": at,
        "datacontenttype": "application/json",
        "data": {
            "feature": "genai_video",
            "model": "ray_2",
            "quantity": "1",
            "hold_id": None,
            "dimensions": {"project": "p_77", "worker": "eu-1/7"},
        },
    }
    return Record(number, timestamp_ms, account.encode(), json.dumps(event).encode())


if __name__ == "__main__":
    main()
