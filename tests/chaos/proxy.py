"""TCP proxies that disturb connections on demand.

One process runs them all, and the harness controls it through a handle. There is one link between
each party and each server, so any two can be separated while all others still see both. Every link
is in one of four modes, which apply to present and future connections:

* ``open``: bytes pass.
* ``cut``: connections are reset, and so is every new one.
* ``half_open``: connections stay, new ones are accepted, and no byte passes either way. The bytes
  that were sent meanwhile arrive when the link is opened again.
* ``slow``: bytes pass, each chunk after ``delay_s``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from usageledger.local.ports import LOOPBACK

Mode = Literal["open", "cut", "half_open", "slow"]
CHUNK_BYTES = 256 * 1024
ANSWER_TIMEOUT_S = 20.0


class Link:
    """Forwards connections to ``port`` on to ``target``."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._mode: Mode = "open"
        self._delay_s = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def listen(self) -> asyncio.Server:
        """Begin to accept connections."""
        return await asyncio.start_server(self._serve, LOOPBACK, self._port, limit=CHUNK_BYTES)

    def set_mode(self, mode: Mode, delay_s: float) -> None:
        """Apply this mode to all connections from now on."""
        self._mode, self._delay_s = mode, delay_s
        if mode == "half_open":
            self._flows.clear()
        else:
            self._flows.set()
        if mode == "cut":
            for writer in list(self._writers):
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            if self._mode == "cut":
                return
            answers, there = await asyncio.open_connection(
                LOOPBACK, self._target, limit=CHUNK_BYTES
            )
            self._writers.add(there)
            await asyncio.gather(self._pass(reader, there), self._pass(answers, writer))
        except OSError:
            pass  # one end is gone, and the reset below ends the other
        finally:
            for side in (writer, there):
                if side is not None:
                    self._writers.discard(side)
                    side.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK_BYTES):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        # The end of one direction ends both: no client of ours closes half a connection.
        raise ConnectionResetError


async def _hold(links: dict[str, tuple[int, int]]) -> None:
    """Run the links until standard input ends. Each line of it changes the mode of one link."""
    held = {name: Link(port, target) for name, (port, target) in links.items()}
    servers = [await link.listen() for link in held.values()]
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    print("ready", flush=True)
    while line := await commands.readline():
        command = json.loads(line)
        held[command["link"]].set_mode(command["mode"], command["delay_s"])
        print("done", flush=True)
    for server in servers:
        server.close()


class Proxies:
    """The harness's handle on the proxies' process, which ends when the harness's pipe closes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._links: dict[str, tuple[int, int]] = {}
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()
        self._disturbed: set[str] = set()

    def add(self, link: str, port: int, target: int) -> None:
        """Add a link from ``port`` to ``target``. Call this before the start."""
        self._links[link] = (port, target)

    def start(self) -> None:
        """Start the process, and wait until it listens everywhere."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.proxy", json.dumps(self._links)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=Path(__file__).parents[2],
                process_group=0,
            )
        self._expect("ready")

    def set_mode(self, link: str, mode: Mode, delay_s: float = 0.0) -> None:
        """Disturb a link, or mend it with ``open``."""
        with self._turn:
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(
                json.dumps({"link": link, "mode": mode, "delay_s": delay_s}) + "\n"
            )
            self._process.stdin.flush()
            self._expect("done")
            (self._disturbed.discard if mode == "open" else self._disturbed.add)(link)

    def heal_all(self) -> None:
        """Open every link that is disturbed."""
        for link in list(self._disturbed):
            self.set_mode(link, "open")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _expect(self, answer: str) -> None:
        said: list[str] = []
        assert self._process is not None
        out: Any = self._process.stdout
        reading = threading.Thread(target=lambda: said.append(out.readline()), daemon=True)
        reading.start()
        reading.join(ANSWER_TIMEOUT_S)
        if not said or said[0].strip() != answer:
            raise RuntimeError(
                f"the proxies answered {said or 'nothing'}, not {answer!r}: see {self._log}"
            )


if __name__ == "__main__":
    asyncio.run(_hold(json.loads(sys.argv[1])))
