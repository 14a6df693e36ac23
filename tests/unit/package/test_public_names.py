"""Programs import public names, and examples and docs import nothing else."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import usageledger
from tests.unit.package.test_architecture import SERVICES
from usageledger.sdk.extras import naming_the_extra

ROOT = SERVICES.parent
PUBLIC_MODULES = {"usageledger", "usageledger.fastapi", "usageledger.testing"}
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DOTTED = re.compile(r"\busageledger\.[a-z_]\w*(?:\.\w+)*")


def deep_imports(root: Path) -> list[str]:
    """Imports and mentions of private modules in examples/, README.md and docs/*.md."""
    found = []
    for path in sorted((root / "examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        found += [f"{path.name} imports {name}" for name in _private_imports(code)]
    for path in sorted([root / "README.md", *(root / "docs").glob("*.md")]):
        text = path.read_text(encoding="utf-8")
        for block in _FENCE.findall(text):
            found += [f"{path.name} imports {name}" for name in _private_imports(block)]
        found += [f"{path.name} names {name}" for name in _private_names(text)]
    return found


def _private_imports(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            if module.partition(".")[0] == "usageledger" and module not in PUBLIC_MODULES:
                yield module


def _private_names(text: str) -> Iterator[str]:
    """Dotted names into modules that exist and are not public, as prose mentions them."""
    for name in _DOTTED.findall(text):
        module = ".".join(name.split(".")[:2])
        path = SERVICES / module.replace(".", "/")
        exists = path.is_dir() or path.with_suffix(".py").is_file()
        if exists and module not in PUBLIC_MODULES:
            yield name


def test_examples_and_docs_import_public_names_only() -> None:
    assert deep_imports(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("examples/worker.py", "from usageledger.sdk.producer.meter import UsageMeter\n"),
        ("examples/worker.py", "def run():\n    import usageledger.log.topics\n"),
        ("README.md", "```python\nfrom usageledger.limits import consumer\n```\n"),
        ("docs/gateway.md", "Mint one with `usageledger.sdk.tokens.mint_account_token`.\n"),
    ],
)
def test_a_deeper_import_in_examples_or_docs_is_found(path: str, text: str, tmp_path: Path) -> None:
    files = {
        "README.md": "```python\nfrom usageledger import UsageMeter\n```\n",
        "examples/app.py": "from usageledger.fastapi import RequireCredits\n",
        "docs/testing.md": "`usageledger.testing.InMemoryGate`; see `usageledger.yaml`.\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert deep_imports(tmp_path) == []
    (tmp_path / path).write_text(text, encoding="utf-8")
    assert deep_imports(tmp_path)


@pytest.mark.parametrize("name", usageledger.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(usageledger, name).__name__ == name


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Spool'"):
        _ = usageledger.Spool


def test_type_checkers_and_python_are_given_the_same_names() -> None:
    """`usageledger` states its names twice: as imports for type checkers, and as a table."""
    tree = ast.parse((SERVICES / "usageledger" / "__init__.py").read_text(encoding="utf-8"))
    for_type_checkers = {
        (alias.asname, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_type_checkers == set(usageledger._MODULE_BY_NAME.items())


@pytest.mark.parametrize(
    ("statement", "missing", "command"),
    [
        ("from usageledger import UsageGate", "msgspec", '"usageledger[gate]"'),
        ("from usageledger import NotEnoughCredits", "msgspec", '"usageledger[gate]"'),
        ("from usageledger.testing import InMemoryGate", "msgspec", '"usageledger[gate]"'),
        ("import usageledger.fastapi", "fastapi", '"usageledger[gateway]"'),
        ("from usageledger import UsageMeter", "kafka", '"usageledger"'),
    ],
)
def test_a_missing_library_names_the_extra_to_install(
    statement: str, missing: str, command: str
) -> None:
    blocked = f"import sys; sys.modules[{missing!r}] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + statement], capture_output=True, text=True, timeout=30
    )
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("ImportError: ")
    assert last_line.endswith(f" needs {missing}: pip install {command}")


def test_a_missing_module_of_ours_is_not_blamed_on_an_extra() -> None:
    error = ModuleNotFoundError("No module named", name="usageledger.absent")
    with pytest.raises(ModuleNotFoundError) as raised, naming_the_extra("UsageGate", "gate"):
        raise error
    assert raised.value is error
