"""For any inputs, accepted + refused + duplicates = sent, and the ledger replays to the same bytes.

    python -m tests.fuzz.accounting --inputs 1000000 [--seed 7]

Each partition of inputs is decided by the real `PartitionBook` and, entry by entry, again by the
audit's replay. It prints the outcomes.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor

from tests.fuzz.inputs import random_inputs
from tests.fuzz.partition import FuzzedPartition, Outcomes

PARTITION_INPUTS = 20_000


def outcomes_of(seed: str, count: int) -> Outcomes:
    """The outcomes of one partition.

    Raises AssertionError, which names the seed and the input, if a promise is broken.
    """
    try:
        return FuzzedPartition().run(random_inputs(random.Random(seed), count))
    except AssertionError as error:
        error.add_note(f"seed {seed!r}, {count} inputs")
        raise


def run(inputs: int, seed: int, processes: int) -> Outcomes:
    """Run as many partitions as these inputs fill."""
    counts = [min(PARTITION_INPUTS, inputs - first) for first in range(0, inputs, PARTITION_INPUTS)]
    every = Outcomes()
    with ProcessPoolExecutor(processes) as pool:
        for found in pool.map(
            outcomes_of, [f"{seed}/{partition}" for partition in range(len(counts))], counts
        ):
            every.include(found)
    return every


def report(found: Outcomes, wall_s: float) -> str:
    """The figures, as text."""
    refused = found.refused.total()
    lines = [
        f"{found.sent:,} inputs in {wall_s:.0f} s = {found.accepted:,} accepted + {refused:,} "
        f"refused + {found.duplicates:,} duplicates",
        f"{found.entries:,} ledger entries, each replayed to the same bytes; catalog records "
        f"beside them: {dict(found.catalogs)}",
        "accepted: "
        + ", ".join(f"{name} {count:,}" for name, count in found.accepted_types.most_common()),
        "refused: " + ", ".join(f"{name} {count:,}" for name, count in found.refused.most_common()),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.processes} processes", flush=True)
    began = time.monotonic()
    found = run(arguments.inputs, arguments.seed, arguments.processes)
    assert found.sent == arguments.inputs
    print(report(found, time.monotonic() - began))


if __name__ == "__main__":
    main()
