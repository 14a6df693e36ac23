"""The protocol as a model: TLC goes through every state that the protocol can reach.

It finds a broken promise for each check that is taken out.
README.md beside this file describes the model, and how it corresponds to the code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.model.tlc import MODELS, TlcFailed, Verdict, check, read_verdict

IS_WIDE = os.environ.get("USAGELEDGER_TEST_PROFILE") == "thorough"
LIMIT_S = 14_400.0 if IS_WIDE else 500.0
AT_ONCE = 2

# All runs are queued at once, so a test may wait for those before its own.
pytestmark = pytest.mark.timeout(10 * LIMIT_S if IS_WIDE else 600)


class Run(NamedTuple):
    """One run of TLC on a configuration file.

    It may be ``without`` a check and may override constants. ``violates``: the promise that breaks.
    """

    configuration: str
    without: str = ""
    constants: tuple[tuple[str, str], ...] = ()
    violates: str | None = None
    keyword: str = ""

    def __str__(self) -> str:
        return (
            self.configuration
            if self.violates is None
            else f"{self.configuration} without {self.without}"
        )


def missing(
    without: str, violates: str, configuration: str, keyword: str = "INVARIANT", **constants: str
) -> Run:
    """A run that must fail: TLC checks only the promise ``violates``, and must find it broken."""
    return Run(configuration, without, tuple(constants.items()), violates, keyword)


def in_the_end(without: str, violates: str, configuration: str, **constants: str) -> Run:
    """The same for a promise that must come true in the end."""
    return missing(without, violates, configuration, "PROPERTY", **constants)


RIGHT = [Run(path.stem) for path in sorted(MODELS.glob("*.cfg"))]

WRONG = [
    missing("the gap", "ViewIsAFold", "repeats"),
    missing("the named offset", "EachIdentityIsChargedOnce", "repeats"),
    missing("the head at look-up", "EachIdentityIsChargedOnce", "repeats"),
    missing("the head at commit", "ViewIsAFold", "repeats"),
    missing("append before commit", "ViewIsNotAheadOfTheLog", "repeats"),
    missing("the overlay", "EachIdentityIsChargedOnce", "repeats"),
    missing("one batch an input", "ViewStandsBetweenInputs", "repeats"),
    missing("batches in order", "TheChainIsUnbroken", "repeats", ChunkMax="2"),
    missing("whole inputs folded", "ViewStandsBetweenInputs", "repeats"),
    missing("due dates folded", "EachPeriodIsRenewedOnce", "topics", FaultsMax="2"),
    missing("both ends asked", "ClockRenewsLast", "topics"),
    missing("adopted versions only", "EntriesNameAnAdoptedVersion", "catalogs"),
    missing("the other input", "ImportsInOrder", "import"),
    missing("the last event", "EachCrossingIsSeenOnceAndInOrder", "limits"),
    missing("its place within an entry", "EachCrossingIsSeenOnceAndInOrder", "limits"),
    missing("the named offset", "EachCrossingIsSeenOnceAndInOrder", "limits"),
    missing("batches without holes", "EachCrossingIsSeenOnceAndInOrder", "limits"),
    missing("readers drop repeats", "EachCrossingIsSeenOnceAndInOrder", "limits"),
    in_the_end("claim again", "EverythingIsDecided", "faults_in_the_end"),
    in_the_end("the idle verifier", "TheViewCatchesUp", "faults_in_the_end"),
    in_the_end("resume again", "EachCrossingIsAnnounced", "limits_in_the_end", Consumers="{a}"),
]

NO_ERROR = "Model checking completed. No error has been found."
ALL_SEEN = "9 states generated, 4 distinct states found, 0 states left on queue."

VerdictOf = Callable[[Run], Verdict]


@pytest.fixture(scope="module")
def verdict_of(request: pytest.FixtureRequest) -> Iterator[VerdictOf]:
    """The verdict of a run. The runs of all selected tests are queued at once, two at a time."""
    mine = [
        item
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    chosen = [item.callspec.params.get("run") for item in mine if hasattr(item, "callspec")]
    pool = ThreadPoolExecutor(AT_ONCE)
    verdicts: dict[Run, Future[Verdict]] = {}

    def verdict(run: Run) -> Verdict:
        if run not in verdicts:
            verdicts[run] = pool.submit(_check, run)
        return verdicts[run].result()

    try:
        verdicts.update({run: pool.submit(_check, run) for run in chosen if isinstance(run, Run)})
        yield verdict
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("run", RIGHT, ids=str)
def test_no_state_that_the_protocol_can_come_to_breaks_a_promise(
    run: Run, verdict_of: VerdictOf, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = verdict_of(run)
    with capsys.disabled():
        print(f" {run}: {verdict.states:,} states ", end="")
    assert verdict.violated is None


@pytest.mark.parametrize("run", WRONG, ids=str)
def test_without_a_check_its_promise_breaks(run: Run, verdict_of: VerdictOf) -> None:
    assert verdict_of(run).violated == run.violates


@pytest.mark.parametrize("module", ["Ledger", "Limits"])
def test_each_action_is_taken_in_some_right_model(module: str, verdict_of: VerdictOf) -> None:
    """If an action can never happen in any model, the models say nothing about it."""
    taken: dict[str, int] = {}
    for run in RIGHT:
        if _module_of(run) == module:
            for action, count in verdict_of(run).taken.items():
                taken[action] = taken.get(action, 0) + count
    assert len(taken) > 5
    assert [action for action, count in taken.items() if count == 0] == []


@pytest.mark.parametrize("module", ["Ledger", "Limits"])
def test_each_check_that_a_module_names_is_taken_out_by_a_run(module: str) -> None:
    named = re.search(
        r"^Checks == \{(.*?)\}",
        (MODELS / f"{module}.tla").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert named is not None
    assert sorted(re.findall(r'"(.*?)"', named.group(1))) == sorted(
        run.without for run in WRONG if _module_of(run) == module
    )


@pytest.mark.parametrize(
    ("code", "output"),
    [
        (0, NO_ERROR),
        (0, ALL_SEEN),
        (0, f"{NO_ERROR}\n9 states generated, 4 distinct states found, 1 states left on queue."),
        (12, f"Error: Deadlock reached.\n{ALL_SEEN}"),
        (12, f"Error: Parsing failed.\nError: Invariant A is violated.\n{ALL_SEEN}"),
        (12, ALL_SEEN),
        (13, f"Error: Invariant A is violated.\n{ALL_SEEN}"),
        (13, f"Error: Temporal properties were violated.\n{ALL_SEEN}"),
        (0, f"Error: Invariant A is violated.\n{NO_ERROR}\n{ALL_SEEN}"),
        (75, f"{NO_ERROR}\n{ALL_SEEN}"),
    ],
)
def test_any_other_output_of_tlc_is_no_verdict(code: int, output: str) -> None:
    with pytest.raises(TlcFailed):
        read_verdict(code, output, "INVARIANT A")


def test_a_model_that_takes_too_long_has_no_verdict() -> None:
    with pytest.raises(TlcFailed, match="no verdict within"):
        check("LedgerCases", _configuration_text(RIGHT[0]), limit_s=0.1)


def _check(run: Run) -> Verdict:
    return check(
        f"{_module_of(run)}Cases", _configuration_text(run), limit_s=LIMIT_S, is_long=IS_WIDE
    )


def _module_of(run: Run) -> str:
    return "Limits" if run.configuration.startswith("limits") else "Ledger"


def _configuration_text(run: Run) -> str:
    """The configuration file's text with this run's constants.

    If the run must fail, it names only the promise that must break.
    """
    text = (MODELS / f"{run.configuration}.cfg").read_text(encoding="utf-8")
    constants = dict(run.constants)
    if run.violates is not None:
        constants["Without"] = f'{{"{run.without}"}}'
        text = (
            re.split(r"^(?:INVARIANTS|PROPERTIES)$", text, flags=re.MULTILINE)[0]
            + f"{run.keyword} {run.violates}\n"
        )
    elif IS_WIDE:
        constants["FaultsMax"] = str(int(re.findall(r"FaultsMax = (\d+)", text)[0]) + 1)
    for name, value in constants.items():
        text, count = re.subn(rf"^  {name} = .*$", f"  {name} = {value}", text, flags=re.MULTILINE)
        assert count == 1
    return text
