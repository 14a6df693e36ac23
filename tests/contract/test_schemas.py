"""schemas/ is generated: the committed files are those that the contracts generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCHEMAS = Path(__file__).parents[2] / "schemas"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _generate(tmp_path_factory.mktemp("schemas"))


def test_the_committed_schemas_are_what_the_contracts_say(generated: dict[str, str]) -> None:
    committed = _texts_below(SCHEMAS)
    assert generated, "nothing was generated"
    assert committed.keys() == generated.keys(), "run `make schemas`"
    assert [name for name, text in committed.items() if text != generated[name]] == [], (
        "run `make schemas`"
    )


def test_schemas_are_generated_alike_each_time(generated: dict[str, str], tmp_path: Path) -> None:
    """Neither a set's order nor a time or path of this machine reaches the schemas."""
    assert _generate(tmp_path) == generated


def _generate(directory: Path) -> dict[str, str]:
    for module in ("usageledger.contracts.schemas", "usageledger.gateway.write_openapi"):
        done = subprocess.run(
            [sys.executable, "-m", module, str(directory)],
            capture_output=True,
            text=True,
            timeout=50,
        )
        if done.returncode:
            pytest.fail(done.stderr, pytrace=False)
    return _texts_below(directory)


def _texts_below(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text(encoding="utf-8") for path in files}
