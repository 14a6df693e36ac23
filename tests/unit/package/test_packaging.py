"""The installed wheel has every file, and each part imports only its extra's libraries."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import usageledger
from tests.unit.package.test_architecture import (
    PACKAGE,
    SERVICES,
    Module,
    imports_of,
    modules_below,
)

ROOT = SERVICES.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The extra that a user of each part installs ("" = none), longest prefix first to match. A part
# may import only the libraries of that extra.
EXTRA_OF = {
    "usageledger": "",
    "usageledger.domain": "core",
    "usageledger.domain.bounds": "",
    "usageledger.domain.credits": "",
    "usageledger.domain.quantity": "",
    "usageledger.domain.thresholds": "",
    "usageledger.contracts": "core",
    "usageledger.ledger": "core",
    "usageledger.ledger.limit_address": "",
    "usageledger.log": "core",
    "usageledger.log.topics": "",
    "usageledger.log.transient_errors": "",
    "usageledger.counters": "core",
    "usageledger.runtime": "core",
    "usageledger.runtime.backoff": "",
    "usageledger.runtime.telemetry": "telemetry",
    "usageledger.accounts": "core",
    "usageledger.accounts.queries": "gate",
    "usageledger.sdk": "",
    "usageledger.sdk.gate": "gate",
    "usageledger.sdk.limits.payment_required": "gateway",
    "usageledger.processor": "processor",
    "usageledger.limits": "core",
    "usageledger.history": "core",
    "usageledger.audit": "core",
    "usageledger.testing": "",
    "usageledger.fastapi": "gateway",
    "usageledger.operations": "core",
    "usageledger.gateway": "gateway",
    "usageledger.web": "gateway",
    "usageledger.local": "local",
    "usageledger.local.docker_servers": "all",
    "usageledger.cli": "cli",
}

# Libraries that a generation worker's image does not have.
NOT_FOR_THE_SDKS = (
    "aiokafka",
    "docker",
    "faust",
    "jgo",
    "mode",
    "msgspec",
    "pydantic",
    "pydantic_settings",
    "redis",
    "rich",
    "testcontainers",
    "typer",
)

SDK_MODULES = (
    "usageledger.sdk.producer",
    "usageledger.sdk.limits.subscriber",
    "usageledger.sdk.limits.async_subscriber",
    "usageledger.sdk.tokens",
    "usageledger.testing",
)


def test_the_package_under_test_is_the_built_wheel() -> None:
    if os.environ.get("PYTHONPATH"):
        pytest.skip("PYTHONPATH is set: this run is of the source tree, on request")
    assert not Path(usageledger.__file__).is_relative_to(SERVICES)
    installed = {
        path.relative_to(Path(usageledger.__file__).parent)
        for path in _files_below(Path(usageledger.__file__).parent)
    }
    source = {path.relative_to(SERVICES / PACKAGE) for path in _files_below(SERVICES / PACKAGE)}
    assert installed == source


def test_the_version_is_the_changelogs_or_unreleased() -> None:
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] in {"Unreleased", PROJECT["version"]}


def test_each_part_imports_only_what_its_extra_brings() -> None:
    modules = modules_below(SERVICES)
    assert {f"{PACKAGE}.{module.part}" for module in modules if module.part} <= EXTRA_OF.keys()
    assert [breach for module in modules for breach in _undeclared_imports(module)] == []


def test_an_import_that_no_extra_brings_is_found(tmp_path: Path) -> None:
    (tmp_path / PACKAGE / "sdk" / "producer").mkdir(parents=True)
    (tmp_path / PACKAGE / "sdk" / "producer" / "meter.py").write_text(
        "import kafka\nimport msgspec\n", encoding="utf-8"
    )
    assert [
        breach for module in modules_below(tmp_path) for breach in _undeclared_imports(module)
    ] == [
        "usageledger.sdk.producer.meter:2 imports msgspec (msgspec), which 'usageledger.sdk' asks "
        "no extra for"
    ]


def test_every_extra_is_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked = {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    }
    development = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "dependency-groups"
    ]["dev"]
    wanted = [*_requirements("all"), *map(Requirement, development)]
    missing = [
        str(r)
        for r in wanted
        if locked.get(canonicalize_name(r.name)) is None
        or locked[canonicalize_name(r.name)] not in r.specifier
    ]
    assert missing == [], "run `make lock`"


def test_the_lock_names_no_index() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_the_lock_of_the_web_tools_names_no_registry() -> None:
    """The npm lock has no address."""
    lock = json.loads((ROOT / "tests/web/package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages.keys() >= {"node_modules/eslint", "node_modules/typescript"}
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if "integrity" not in entry] == []
    for entry in packages.values():
        del entry["integrity"]
        entry.pop("funding", None)
    assert "://" not in json.dumps(packages)


def test_importing_the_package_loads_no_library() -> None:
    loaded = _run_python("import sys, usageledger; print(*sorted(sys.modules))").split()
    assert {"kafka", *NOT_FOR_THE_SDKS}.isdisjoint(name.partition(".")[0] for name in loaded)


@pytest.mark.parametrize("module", SDK_MODULES)
def test_an_sdk_needs_kafka_python_and_nothing_else(module: str) -> None:
    """A refused import represents a library that is not installed: a worker's image has only
    kafka-python.
    """
    _run_python(f"{_REFUSING_FINDER}\nimport {module}")


@pytest.mark.parametrize(
    "name", ["UsageMeter", "AccountClient", "LimitSubscriber", "AsyncLimitSubscriber"]
)
def test_the_public_names_need_kafka_python_and_nothing_else(name: str) -> None:
    _run_python(f"{_REFUSING_FINDER}\nfrom usageledger import {name}")


@pytest.mark.parametrize("name", ["UsageGate", "AsyncUsageGate", "testing.InMemoryGate"])
def test_a_gate_needs_its_extra_and_nothing_else(name: str) -> None:
    brought = {canonicalize_name(requirement.name) for requirement in _requirements("gate")}
    refused = tuple(
        library
        for library in (*NOT_FOR_THE_SDKS, "fastapi", "uvicorn")
        if canonicalize_name(library) not in brought
    )
    module, _, of = f"usageledger.{name}".rpartition(".")
    _run_python(
        f"{_REFUSING_FINDER.replace(repr(NOT_FOR_THE_SDKS), repr(refused))}\nfrom {module} import "
        f"{of}"
    )


def test_a_library_that_is_refused_cannot_be_imported() -> None:
    with pytest.raises(pytest.fail.Exception, match="refused by this test"):
        _run_python(f"{_REFUSING_FINDER}\nimport msgspec")


_REFUSING_FINDER = f"""
import sys
class Refusing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {NOT_FOR_THE_SDKS!r}:
            message = f"No module named {{name!r}} (refused by this test)"
            raise ModuleNotFoundError(message, name=name)
sys.meta_path.insert(0, Refusing)
"""


def _undeclared_imports(module: Module) -> Iterator[str]:
    part = max(
        (name for name in EXTRA_OF if module.name == name or module.name.startswith(f"{name}.")),
        key=len,
    )
    declared = {
        canonicalize_name(requirement.name) for requirement in _requirements(EXTRA_OF[part])
    }
    for line, target in imports_of(module, set()):
        top = target.partition(".")[0]
        if top in sys.stdlib_module_names or top in {PACKAGE, "__future__"}:
            continue
        brought_by = {
            canonicalize_name(name) for name in _distributions().get(top, [f"{top}, not installed"])
        }
        if not brought_by & declared:
            yield (
                f"{module.name}:{line} imports {target} ({', '.join(sorted(brought_by))}), which "
                f"{part!r} asks no extra for"
            )


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions that contain each package.

    Made from every file that is installed: looking up each module on its own lasted half a minute.
    """
    return importlib.metadata.packages_distributions()


def _requirements(extra: str) -> Iterator[Requirement]:
    """The requirements of `pip install usageledger[extra]`, with extras of ours expanded."""
    yield from map(Requirement, PROJECT["dependencies"])
    pending = [extra] if extra else []
    while pending:
        for requirement in map(Requirement, PROJECT["optional-dependencies"][pending.pop()]):
            if requirement.name == PACKAGE:
                pending += requirement.extras
            else:
                yield requirement


def _files_below(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _run_python(code: str) -> str:
    """The output of a fresh interpreter. Fails with its traceback."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    if done.returncode:
        pytest.fail(done.stderr, pytrace=False)
    return done.stdout
