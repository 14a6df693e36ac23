"""The pins of requirements.lock, and which of them a user of the extra ``all`` needs."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
PACKAGE = "usageledger"
_PIN = re.compile(
    r"^(?P<line>(?P<name>[\w.-]+)==(?P<version>\S+)(?: ; .+?)?) \\\n"
    r"(?P<hashes>(?:    --hash=.+\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of a package. ``line`` is its requirement with its marker."""

    name: str
    version: str
    line: str
    sha256: tuple[str, ...]


def read_pins(text: str | None = None) -> tuple[Pin, ...]:
    """The pins of a lock's text, in its order; without ``text``, those of requirements.lock.

    Raises ValueError for a lock that has a line of another form.
    """
    text = LOCK.read_text(encoding="utf-8") if text is None else text
    rest = _PIN.sub("", text).strip()
    if rest:
        raise ValueError(f"the lock has a line that is no pin: {rest.splitlines()[0]}")
    return tuple(
        Pin(
            name=found["name"],
            version=found["version"],
            line=found["line"],
            sha256=tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", found["hashes"])),
        )
        for found in _PIN.finditer(text)
    )


def names_for_users() -> frozenset[str]:
    """The canonical names of the packages that ``pip install usageledger[all]`` may install.

    The metadata of the installed packages says what each needs. A requirement for another system or
    Python counts too.
    """
    pending = list(_expanded(_own_extras(), "all"))
    seen: set[tuple[str, str]] = set()
    while pending:
        name, extra = pending.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        pending += _needed_by(name, extra)
    return frozenset(name for name, _ in seen)


def _own_extras() -> Mapping[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}


def _expanded(extras: Mapping[str, list[Requirement]], extra: str) -> Iterator[tuple[str, str]]:
    """Names of the packages that an extra of ours brings, each with an extra of its own or ""."""
    for requirement in (*extras[""], *extras[extra]):
        if requirement.name == PACKAGE:
            for other in requirement.extras:
                yield from _expanded(extras, other)
        else:
            yield from _with_extras(requirement)


def _with_extras(requirement: Requirement) -> Iterator[tuple[str, str]]:
    name = canonicalize_name(requirement.name)
    yield name, ""
    yield from ((name, extra) for extra in requirement.extras)


def _needed_by(name: str, extra: str) -> Iterator[tuple[str, str]]:
    """Names of the packages that a package needs with an extra, on any system.

    None if it is not installed here: then it is for another system.
    """
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        needs_extra = marker is not None and "extra ==" in str(marker)
        if not needs_extra or _is_brought(requirement, extra):
            yield from _with_extras(requirement)


def _is_brought(requirement: Requirement, extra: str) -> bool:
    """Whether an extra brings a requirement that only extras bring."""
    return (
        bool(extra)
        and requirement.marker is not None
        and requirement.marker.evaluate({"extra": extra})
    )
