"""The short form of the fuzzing.

It runs the committed corpus, some seconds of the fuzzer, and ten thousand inputs of a partition.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import CORPUS, has_atheris
from tests.fuzz.accounting import report
from tests.fuzz.inputs import random_inputs
from tests.fuzz.partition import FuzzedPartition
from tests.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).parents[2]
RUNS = 5_500
INPUTS = 10_000


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_holds_the_property_of_its_target(target: str) -> None:
    for data in [
        *seeds(target),
        *(path.read_bytes() for path in sorted((CORPUS / target).iterdir())),
    ]:
        TARGETS[target](data)


@pytest.mark.peer_defect("OpenMeter sink")
def test_every_input_is_accounted_for_and_the_ledger_replays(
    rng: random.Random,
) -> None:
    """OpenMeter's sink drops malformed events after it has acknowledged them.

    Here each has an entry, with its reason and its address.
    """
    found = FuzzedPartition().run(random_inputs(rng, INPUTS))
    assert found.sent == INPUTS
    assert min(found.accepted, found.refused.total(), found.duplicates) > INPUTS / 100, report(
        found, 0
    )
    assert len(found.refused) > 10, report(found, 0)


@pytest.mark.skipif(
    not has_atheris(),
    reason="atheris has no wheel here, or is not installed: `make fuzz` does that",
)
def test_a_short_search_guided_by_coverage_finds_nothing(
    rng: random.Random, tmp_path: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.fuzz",
        "--runs",
        str(RUNS),
        "--seed",
        str(rng.randrange(2**31)),
        "--found",
        str(tmp_path),
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
