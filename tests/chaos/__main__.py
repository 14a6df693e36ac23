"""``python -m tests.chaos``: break everything for a while, then mend it.

It proves from the log alone that nothing was lost or counted twice.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.chaos.run import RATE, Options, run, store_of
from tests.chaos.stage import StoreKind


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument(
        "--faults", type=int, default=100, help="how many faults are drawn (default 100)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="decides which faults come, in which order and when (default: a new seed, printed)",
    )
    parser.add_argument(
        "--store",
        choices=("sentinel", "cluster", "seed"),
        default="seed",
        help="which Redis; by default the seed decides",
    )
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        help=f"usage events a second that the workers report (default {RATE:g})",
    )
    parser.add_argument(
        "--alone",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="first inject each kind of fault by itself, and measure it",
    )
    parser.add_argument(
        "--report", type=Path, default=None, metavar="DIR", help="write an HTML page there"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=None,
        help="the directory of data and logs; kept if it is given, or if something is wrong",
    )
    given = parser.parse_args()
    if given.directory is not None and given.directory.exists() and any(given.directory.iterdir()):
        parser.error(f"{given.directory} is not empty")
    seed = random.SystemRandom().randrange(2**31) if given.seed is None else given.seed
    store: StoreKind = store_of(seed) if given.store == "seed" else given.store
    alone = given.faults >= 200 if given.alone is None else given.alone
    options = Options(
        faults=given.faults,
        seed=seed,
        store=store,
        rate=given.rate,
        alone=alone,
        report=given.report,
        directory=given.directory,
    )
    return 0 if run(options).is_proved else 1


if __name__ == "__main__":
    sys.exit(main())
