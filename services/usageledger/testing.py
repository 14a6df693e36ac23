"""In-memory stand-ins for the tests of programs that report usage or ask before it.

`InMemoryMeter` makes the checks of `usageledger.UsageMeter` without Kafka. `InMemoryGate` applies
the ledger's rules without Redis, and needs the extra ``gate``.

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

from usageledger.sdk.extras import naming_the_extra
from usageledger.sdk.producer.events import Event, InvalidEvent
from usageledger.sdk.producer.recording import UsageRecorder, Waiting
from usageledger.sdk.producer.spool import SpoolError, SpoolFull

if TYPE_CHECKING:
    from usageledger.sdk.gate.in_memory import InMemoryGate

__all__ = ["InMemoryGate", "InMemoryMeter", "InvalidEvent", "SpoolError", "SpoolFull", "Waiting"]


class InMemoryMeter(UsageRecorder):
    """Keeps recorded events in ``events``: CloudEvents as dicts, voids too, in the order of calls.

    While ``fail_with`` is set (to a SpoolFull, say), every call that records raises it.
    """

    def __init__(self, *, source: str, clock: Callable[[], datetime] | None = None) -> None:
        super().__init__(source=source, clock=clock)
        self.events: list[dict[str, Any]] = []
        self.fail_with: SpoolError | None = None
        self._is_closed = False

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Return True: nothing ever waits."""
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Return True. From now on recording raises SpoolError, as `UsageMeter` does."""
        self._is_closed = True
        return True

    def waiting(self) -> Waiting:
        """Return zeros: nothing ever waits."""
        return Waiting()

    def _keep(self, event: Event, value: bytes) -> None:
        if self._is_closed:
            raise SpoolError("the event is NOT recorded: the meter is closed. Make another meter")
        if self.fail_with is not None:
            raise self.fail_with
        # Decoded from the bytes, so that a test sees exactly what a reader of the topic would.
        self.events.append(json.loads(value))


def __getattr__(name: str) -> object:
    if name == "InMemoryGate":
        with naming_the_extra(name, "gate"):
            from usageledger.sdk.gate.in_memory import InMemoryGate

        return InMemoryGate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
