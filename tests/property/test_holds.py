"""The sum of holds is the sum of the open ones, and never more than what remained.

This is true for any order of holding, releasing, settling and expiring.
"""

from __future__ import annotations

import asyncio
from typing import Literal, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from usageledger.counters.holding import FindHold, PlaceHold, ReleaseHold
from usageledger.counters.memory import MemoryView
from usageledger.counters.reading import ReadAccount
from usageledger.counters.view import Position, ViewChange

IDS = ("a", "b", "c", "d")


class Step(NamedTuple):
    what: Literal["hold", "release", "settle", "wait"]
    id: str
    amount: int
    content: bytes


_steps = st.builds(
    Step,
    st.sampled_from(("hold", "hold", "release", "settle", "wait")),
    st.sampled_from(IDS),
    st.integers(0, 60),
    st.sampled_from((b"x", b"y")),
)


@given(st.lists(_steps, max_size=40), st.integers(-10, 120))
def test_the_sum_is_what_is_open_and_never_more_than_remained(
    steps: list[Step], remaining: int
) -> None:
    now_ms = [1_000_000]
    view = MemoryView(now_ms=lambda: now_ms[0])
    open_ = Model()
    for step in steps:
        before = view.ask(ReadAccount("ann")).held
        if step.what == "hold":
            asked = PlaceHold(
                account="ann",
                seen=None,
                remaining=remaining,
                id=step.id,
                credits=step.amount,
                life_ms=50,
                content=step.content,
                open_max=3,
            )
            held = view.ask(asked)
            if open_.place(step, now_ms[0], remaining):
                assert held.outcome == "held"
                assert held.sum <= max(0, remaining)
            else:
                assert held.sum == before
        elif step.what == "release":
            view.ask(ReleaseHold(account="ann", id=step.id, holders=()))
            open_.end(step.id, now_ms[0], for_good=False)
        elif step.what == "settle":
            asyncio.run(settle(view, step.id))
            open_.end(step.id, now_ms[0], for_good=True)
        else:
            now_ms[0] += step.amount
        assert view.ask(ReadAccount("ann")).held == open_.sum(now_ms[0]) >= 0
        for id in IDS:
            hold = view.ask(FindHold(account="ann", id=id))
            assert (hold is not None and hold.state == "open") is open_.is_open(id, now_ms[0])


class Model:
    """A model of holds in plain Python: when each ends, and whether it may be placed again."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[int, int]] = {}
        self._settled_until: dict[str, int] = {}
        self._counted_until: dict[str, int] = {}

    def is_open(self, id: str, now: int) -> bool:
        return id in self._open and now < self._open[id][1]

    def sum(self, now: int) -> int:
        return sum(credits for id, (credits, _) in self._open.items() if self.is_open(id, now))

    def place(self, step: Step, now: int, remaining: int) -> bool:
        """Whether the step opens a hold."""
        if self.is_open(step.id, now) or now < self._settled_until.get(step.id, 0):
            return False
        if step.amount and step.amount > remaining - self.sum(now):
            return False
        if sum(self.is_open(id, now) for id in IDS) >= 3:
            return False
        self._open[step.id] = (step.amount, now + 50)
        self._counted_until[step.id] = now + 50
        return True

    def end(self, id: str, now: int, *, for_good: bool) -> None:
        is_known = now < self._counted_until.get(id, 0)
        if for_good and is_known:
            self._settled_until[id] = self._counted_until[id]
        self._open.pop(id, None)


async def settle(view: MemoryView, id: str) -> None:
    head = await view.head()
    position = Position(0 if head is None else head.position.next_offset + 1, "h")
    await view.commit(
        None if head is None else head.position,
        ViewChange(head=b"h", position=position, settled_holds=[("ann", id, "/render")]),
    )
