"""An app that subscribes to limit events, and notes each one and the accounts that are blocked."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType

from usageledger import LimitSubscriber
from usageledger.local.files import write_atomically
from usageledger.sdk.limits.limit_event import LimitEvent

WRITE_EVERY_S = 1.0
READY_TIMEOUT_S = 120.0


class Listener:
    """Each line in ``heard`` names the life of the process that wrote it.

    Within one life of an app without a group, no event may come twice.
    """

    def __init__(self, heard: Path, blocked: Path, group: str | None) -> None:
        heard.parent.mkdir(parents=True, exist_ok=True)
        self._heard = heard.open("ab", buffering=0)
        self._blocked = blocked
        self._is_ending = threading.Event()
        self._subscriber = LimitSubscriber(group=group, from_beginning=True)
        for register in (
            self._subscriber.on_threshold,
            self._subscriber.on_reached,
            self._subscriber.on_cleared,
        ):
            register(self._note)
        self._life = f"{os.getpid()}-{time.time_ns()}"
        signal.signal(signal.SIGTERM, self._end)

    def run(self) -> None:
        """Listen until stopped.

        A subscriber that has failed ends the process, which is then started again.
        """
        self._subscriber.start()
        try:
            self._subscriber.wait_ready(READY_TIMEOUT_S)
            while not self._is_ending.wait(WRITE_EVERY_S):
                state = {"at": time.time(), "blocked": sorted(self._subscriber.blocked())}
                write_atomically(self._blocked, json.dumps(state))
        finally:
            self._subscriber.close(5.0)

    def _note(self, event: LimitEvent) -> None:
        self._heard.write(
            json.dumps(
                {"life": self._life, "id": event.id, "kind": event.kind, "account": event.account}
            ).encode()
            + b"\n"
        )

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._is_ending.set()


def main() -> None:
    arguments = argparse.ArgumentParser()
    for name in ("heard", "blocked"):
        arguments.add_argument(f"--{name}", required=True, type=Path)
    arguments.add_argument("--group", default=None)
    Listener(**vars(arguments.parse_args())).run()


if __name__ == "__main__":
    main()
