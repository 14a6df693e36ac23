"""Whether everything that the gateway needs is there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

log = logging.getLogger(__name__)


class Lack(NamedTuple):
    """Why something is not ready.

    ``why`` is for operators: it can contain addresses. ``cause`` is one word for anybody. If
    ``is_partial``, the gateway answers most requests all the same.
    """

    why: str
    cause: str | None = None
    is_partial: bool = False

    @property
    def kind(self) -> str:
        """The same for as long as only figures in the reason change."""
        return self.cause or self.why


Check = Callable[[], Awaitable[Lack | None]]
"""Returns why something is not ready, None if it is."""


class Lacks(NamedTuple):
    """Everything that is not ready, by name."""

    found: Mapping[str, Lack]

    @property
    def missing(self) -> list[str]:
        """The names of those without which the gateway is not ready."""
        return [name for name, lack in self.found.items() if not lack.is_partial]

    @property
    def degraded(self) -> list[str]:
        """The names of those without which it answers most requests."""
        return [name for name, lack in self.found.items() if lack.is_partial]

    @property
    def causes(self) -> dict[str, str]:
        """The causes that are known, by name."""
        return {name: lack.cause for name, lack in self.found.items() if lack.cause}

    def reasons(self, names: list[str]) -> tuple[str, ...]:
        """Each of these names with its reason."""
        return tuple(f"{name}: {self.found[name].why}" for name in names)


class Readiness:
    """The checks by name. A reason is logged when it is new, not each time that somebody asks."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._logged: Mapping[str, Lack] = {}

    async def look(self) -> Lacks:
        """Make every check."""
        found = {
            name: lack
            for name, check in self._checks.items()
            if (lack := await check()) is not None
        }
        before, self._logged = self._logged, found
        for name, lack in found.items():
            if name not in before or before[name].kind != lack.kind:
                log.warning("not ready, %s: %s", name, lack.why)
        return Lacks(found)
