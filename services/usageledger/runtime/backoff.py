"""How long to wait before something that failed is tried again. Standard library alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays in seconds after one failure in a row, after two, and so on.

    The last one repeats. ``spread`` is the range of factors that `delay_s` picks from, so that
    clients that failed together do not come back together.
    """

    delays_s: tuple[float, ...]
    spread: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def doubling(
        cls, first_s: float, max_s: float, spread: tuple[float, float] = (1.0, 1.0)
    ) -> Backoff:
        """Delays that double from ``first_s`` up to ``max_s``."""
        delays_s = [first_s]
        while delays_s[-1] < max_s:
            delays_s.append(min(2 * delays_s[-1], max_s))
        return cls(tuple(delays_s), spread)

    def delay_s(self, failures: int, chance: float = 0.5) -> float:
        """The delay after this number of ``failures`` in a row (1 or more).

        ``chance`` is in [0, 1) and says where in the spread the delay is.
        """
        lowest, highest = self.spread
        delay_s = self.delays_s[min(failures, len(self.delays_s)) - 1]
        return delay_s * (lowest + (highest - lowest) * chance)
