"""Whether everything that the gateway needs is there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str | None]]
"""Returns why something is not ready, None if it is."""


class Readiness:
    """The checks by name. A reason is logged when it is new, not each time that somebody asks."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks
        self._logged: Mapping[str, str] = {}

    async def missing(self) -> list[str]:
        """The names of what is not ready."""
        found = {
            name: reason
            for name, check in self._checks.items()
            if (reason := await check()) is not None
        }
        before, self._logged = self._logged, found
        for name, reason in found.items():
            if before.get(name) != reason:
                log.warning("not ready, %s: %s", name, reason)
        return list(found)
