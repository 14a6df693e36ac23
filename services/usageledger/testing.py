"""For the tests of programs that report usage, or ask before it: a meter with the checks of
`UsageMeter` and no Kafka, and a gate with the rules of the ledger and no Redis.

::

    meter = InMemoryMeter(source="render")
    render(job, meter=meter)
    assert meter.events[0]["data"]["model"] == "veo_3"

    gate = InMemoryGate()
    gate.open("acct_1", plan="pro", used="190")
    assert not gate.check("acct_1", "genai_video", "veo_3")
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from usageledger.sdk.producer.events import Event, InvalidEvent
from usageledger.sdk.producer.recording import UsageRecorder, Waiting
from usageledger.sdk.producer.spool import SpoolError, SpoolFull

if TYPE_CHECKING:
    from usageledger.sdk.gate.in_memory import InMemoryGate as InMemoryGate

__all__ = ["InMemoryGate", "InMemoryMeter", "InvalidEvent", "SpoolError", "SpoolFull", "Waiting"]


class InMemoryMeter(UsageRecorder):
    """Keeps what is recorded in ``events``: CloudEvents as dicts, voids among them, in the order of
    the calls.

    ``fail_with``: what the next calls raise instead (a SpoolFull, say), until it is set to None.
    """

    def __init__(self, *, source: str, clock: Callable[[], datetime] | None = None) -> None:
        super().__init__(source=source, clock=clock)
        self.events: list[dict[str, Any]] = []
        self.fail_with: SpoolError | None = None
        self._is_closed = False

    def flush(self, timeout_s: float = 30.0) -> bool:
        """True: nothing waits."""
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """True. Whoever records afterwards is refused, as by `UsageMeter`."""
        self._is_closed = True
        return True

    def waiting(self) -> Waiting:
        """Nothing."""
        return Waiting()

    def _keep(self, event: Event, value: bytes) -> None:
        if self._is_closed:
            raise SpoolError("the event is NOT recorded: the meter is closed")
        if self.fail_with is not None:
            raise self.fail_with
        # A reader sees what was written, so a test does too.
        self.events.append(json.loads(value))


def __getattr__(name: str) -> object:
    if name == "InMemoryGate":
        from usageledger.sdk.gate.in_memory import (
            InMemoryGate,
        )  # it needs the extra `gate`; the meter needs none

        return InMemoryGate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
