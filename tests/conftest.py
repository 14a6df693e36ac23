"""What holds for every test: a time limit by directory, seeds that are printed, Hypothesis
profiles.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import pytest

pytest_plugins = ["tests.servers"]

_TESTS = Path(__file__).parent

# Seconds a test may take, by the directory it lies in. A test that needs more says so with
# @pytest.mark.timeout and a reason.
_LIMITS_S = {
    "unit": 30,
    "simulation": 120,
    "property": 300,
    "contract": 60,
    "model": 600,
    "fuzz": 300,
    "integration": 240,
    "chaos": 1200,
    "examples": 120,
    "browser": 180,
}

# Hypothesis' own deadline is the wall-clock time of one example: on a busy machine right tests
# fail. The limits above bound them.
hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile(
    "ci", deadline=None, print_blob=True, derandomize=False, max_examples=200
)
hypothesis.settings.register_profile(
    "thorough", deadline=None, print_blob=True, derandomize=False, max_examples=5_000
)

_seed_key = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose this run's seed before Hypothesis' plugin looks for its own: a seed that was asked for
    drives both.
    """
    given = os.environ.get("USAGELEDGER_TEST_SEED", "")
    config.stash[_seed_key] = int(given) if given else random.SystemRandom().randrange(2**32)
    if given and config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = given
    if not config.getoption("hypothesis_profile", None):
        hypothesis.settings.load_profile(
            os.environ.get("USAGELEDGER_TEST_PROFILE", "ci" if os.environ.get("CI") else "dev")
        )


def pytest_report_header(config: pytest.Config) -> str:
    """Say how this run's random tests can be run again."""
    return (
        f"seed: {config.stash[_seed_key]} (again with "
        f"USAGELEDGER_TEST_SEED={config.stash[_seed_key]})"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test that has no time limit of its own the one of its directory."""
    for item in items:
        limit_s = _LIMITS_S.get(item.path.relative_to(_TESTS).parts[0])
        if limit_s is not None and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(limit_s))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of this test alone: the same for the same seed, whichever other tests run."""
    return random.Random(f"{request.config.stash[_seed_key]}/{request.node.nodeid}")
