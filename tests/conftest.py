"""Time limits by suite, printed seeds, Hypothesis profiles and each suite's total time."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.servers"]

_TESTS = Path(__file__).parent

# Seconds that one test may take, by suite (its directory). A test that needs more says so with
# @pytest.mark.timeout and a reason.
_LIMITS_S = {
    "unit": 30,
    "simulation": 120,
    "property": 300,
    "contract": 60,
    "model": 600,
    "fuzz": 300,
    "integration": 240,
    "security": 240,
    "chaos": 1200,
    "examples": 120,
    "browser": 180,
}

# Hypothesis' own deadline is the wall-clock time of one example, so correct tests would fail on a
# busy machine. The limits above bound them instead. `make check` uses "quick", CI uses "ci".
hypothesis.settings.register_profile("quick", deadline=None, print_blob=True, max_examples=25)
hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, print_blob=True, derandomize=False, max_examples=200
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, print_blob=True, derandomize=False, max_examples=5_000
)

_seed_key = pytest.StashKey[int]()
_seconds_key = pytest.StashKey[dict[str, float]]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose this run's seed before Hypothesis' plugin does, so that one seed drives both."""
    config.stash[_seconds_key] = defaultdict(float)
    given = os.environ.get("USAGELEDGER_TEST_SEED", "")
    config.stash[_seed_key] = int(given) if given else random.SystemRandom().randrange(2**32)
    if given and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = given
    if not config.getoption("hypothesis_profile", None):
        hypothesis.settings.load_profile(
            os.environ.get("USAGELEDGER_TEST_PROFILE", "ci" if os.environ.get("CI") else "dev")
        )


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed that runs this run's random tests again."""
    return (
        f"seed: {config.stash[_seed_key]} (again with "
        f"USAGELEDGER_TEST_SEED={config.stash[_seed_key]})"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test without a time limit of its own its suite's limit."""
    for item in items:
        limit_s = _LIMITS_S.get(_suite_of(item.path))
        if limit_s is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit_s))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the set-up, call or tear-down to its suite's total."""
    item.config.stash[_seconds_key][_suite_of(item.path)] += call.duration
    return (yield)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the seconds that each suite took, which CI repeats at the end of its output."""
    seconds = config.stash[_seconds_key]
    if seconds:
        shown = ", ".join(f"{suite} {seconds[suite]:.0f}" for suite in sorted(seconds))
        terminalreporter.write_line(f"seconds by suite: {shown}")


def _suite_of(path: Path) -> str:
    return path.relative_to(_TESTS).parts[0]


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return this test's own random numbers: one seed gives the same, whichever tests run."""
    return random.Random(f"{request.config.stash[_seed_key]}/{request.node.nodeid}")
