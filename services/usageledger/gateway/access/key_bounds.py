"""The bounds of a key: the sources and accounts that it may speak for, and how much it may report.

A pattern is a whole name, or the beginning of names and a final ``*``. Without a pattern a key is
not bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from usageledger.domain.quantity import check_name

PATTERNS_MAX = 100
"""How many patterns of a kind a key has at most: each request compares them all."""
EVENTS_PER_SECOND_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBounds:
    """The bounds of one key. ``events_per_second`` is None for a key without a quota."""

    sources: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    events_per_second: int | None = None

    @property
    def is_bound(self) -> bool:
        """Whether some accounts or sources are outside."""
        return bool(self.sources or self.accounts)

    def includes_source(self, source: str) -> bool:
        """Whether events of this source may be reported."""
        return _is_among(source, self.sources)

    def includes_account(self, account: str) -> bool:
        """Whether the key may act for this account."""
        return _is_among(account, self.accounts)

    def why_account_is_outside(self, account: str) -> str:
        """The words of a refusal, with what to do."""
        return _why_outside("account", account, self.accounts)

    def why_source_is_outside(self, source: str) -> str:
        """The words of a refusal, with what to do."""
        return _why_outside("source", source, self.sources)


UNBOUND = KeyBounds()


def checked_pattern(pattern: str) -> str:
    """A pattern, checked. Raises ValueError for one that would never match as it was meant."""
    check_name("a pattern", pattern)
    if "*" in pattern[:-1]:
        raise ValueError(f"{pattern!r}: a pattern is a whole name, or a prefix and a final *")
    return pattern


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(_matches(name, pattern) for pattern in patterns)


def _matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _why_outside(kind: str, name: str, patterns: Sequence[str]) -> str:
    listed = ", ".join(patterns[:3]) + (", …" if len(patterns) > 3 else "")
    return (
        f"this key is bound to the {kind}s {listed}, and {name!r} is not among them: use a key for "
        f"that {kind}; `usageledger keys create` makes one"
    )
