"""Coverage-guided fuzzing of every decoder, by atheris (libFuzzer) and by mutations of JSON.

    python -m tests.fuzz --runs 1000000 [--target usage …] [--processes 2]

The runs are divided among the targets, each in a process of its own. A target begins with the
committed corpus and the valid messages of its kind. An input that makes it fail is written to
build/fuzz/crash-TARGET-…. Add that file to tests/fuzz/corpus/TARGET/, and the suite always runs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
BYTES_MAX = 200_000
RUN_TIMEOUT_S = 3_600
# One run of this target decides a whole file, about a hundred times the work of the others.
SLOW = {"partition": 10}


def has_atheris() -> bool:
    """Whether atheris is installed. It has wheels only for Linux on x86-64."""
    return importlib.util.find_spec("atheris") is not None


def fuzz(target: str, runs: int, seed: int, found: Path) -> None:
    """Fuzz one target in this process. libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["usageledger"]):
        from tests.fuzz.mutating import mutation_of
        from tests.fuzz.targets import TARGETS, seeds

    directory = found / target
    directory.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(target)):
        (directory / f"seed_{number}").write_bytes(data)

    def mutate(data: bytes, bytes_max: int, mutation_seed: int) -> bytes:
        rng = random.Random(mutation_seed)
        changed = mutation_of(data, rng) if rng.random() < 0.8 else atheris.Mutate(data, bytes_max)
        return bytes(changed[:bytes_max])

    options = [
        f"-runs={runs}",
        f"-seed={seed % 2**31 or 1}",
        f"-max_len={BYTES_MAX}",
        "-len_control=0",
        "-timeout=20",
        "-print_final_stats=1",
    ]
    paths = [
        f"-artifact_prefix={found}/crash-{target}-",
        str(directory),
        *(str(CORPUS / target),) * (CORPUS / target).is_dir(),
    ]
    atheris.Setup([sys.argv[0], *options, *paths], TARGETS[target], custom_mutator=mutate)
    atheris.Fuzz()


def fuzz_all(targets: list[str], runs: int, seed: int, found: Path, processes: int) -> list[str]:
    """Fuzz each target in a process of its own. Print each result and return the failed ones."""
    each = max(1, runs // len(targets))
    found.mkdir(parents=True, exist_ok=True)

    def run(target: str) -> tuple[str, int, float]:
        began = time.monotonic()
        share = str(max(1, each // SLOW.get(target, 1)))
        options = ["--one", target, "--runs", share, "--seed", str(seed), "--found", str(found)]
        command = [sys.executable, "-m", "tests.fuzz", *options]
        with (found / f"{target}.log").open("wb") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=RUN_TIMEOUT_S, check=False
            ).returncode
        return target, code, time.monotonic() - began

    failed = []
    with ThreadPoolExecutor(processes) as pool:
        for target, code, wall_s in pool.map(run, targets):
            text = (found / f"{target}.log").read_text(errors="replace")
            executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
            branches = re.findall(r"cov: (\d+)", text)
            runs_done, branch_count = (
                executed[1] if executed else "?",
                branches[-1] if branches else "?",
            )
            print(
                f"{target:<12} {runs_done:>8} runs, {branch_count:>5} branches, {wall_s:5.0f} s",
                flush=True,
            )
            if code != 0:
                failed.append(target)
                print(text[-3_000:])
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--target", action="append", dest="targets")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--found", type=Path, default=Path("build") / "fuzz", help="the directory of findings"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.one, arguments.runs, arguments.seed, arguments.found)
        return
    if not has_atheris():
        sys.exit(
            "atheris is not installed here (it has wheels for Linux on x86-64): pip install -r "
            "tests/fuzz/requirements.txt"
        )
    from tests.fuzz.targets import TARGETS

    print(f"seed {arguments.seed}", flush=True)
    failed = fuzz_all(
        arguments.targets or list(TARGETS),
        arguments.runs,
        arguments.seed,
        arguments.found,
        arguments.processes,
    )
    sys.exit(f"failed: {', '.join(failed)} (see {arguments.found})" if failed else 0)


if __name__ == "__main__":
    main()
