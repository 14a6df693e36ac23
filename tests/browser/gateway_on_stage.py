"""A gateway in a thread: real pages, keys and sessions, with the accounts that a test sets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.browser import made_up
from tests.worlds.gateway_world import GatewayWorld
from usageledger.gateway.access.app_keys import NotAuthentic
from usageledger.gateway.problems import problem_response

Answer = dict[str, Any]


@dataclass(slots=True)
class Shown:
    """The gateway's answers about one account."""

    meter: Answer
    charges: list[Answer] = field(default_factory=made_up.charges)
    periods: list[Answer] = field(default_factory=made_up.periods)


class GatewayOnStage:
    """A gateway whose answers a test sets.

    ``accounts`` holds the answers about accounts, and ``answers`` those for the console, by method
    and path. ``is_away`` refuses every request about an account. ``ended`` holds tokens that have
    ended. ``resumed`` records the event ids after which streams were resumed.
    """

    def __init__(self, directory: Path) -> None:
        self.world = GatewayWorld(directory)
        self.world.now = datetime.now(UTC)
        self.accounts: dict[str, Shown] = {}
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.posted: list[tuple[str, Any]] = []
        self.resumed: list[str] = []
        self.ended: set[str] = set()
        self.is_away = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._streams: dict[str, list[asyncio.Queue[ServerSentEvent | None]]] = {}

    def say(self, account: str, event: str, data: Answer, *, id: str | None = None) -> None:
        """Send an event to each stream of this account that is open."""
        said = ServerSentEvent(json.dumps(data), event=event, id=id)
        self._queue(said, self._streams.get(account, []))

    def move(self, account: str, meter: Answer) -> None:
        """Change the account's meter, and send its new figures to each open stream."""
        self.accounts[account].meter = meter
        at = max(datetime.now(UTC), datetime.fromisoformat(meter["at"]))
        self.say(account, "meter", made_up.live_figures(meter, at=at))

    def hang_up(self) -> None:
        """End every stream."""
        for queues in self._streams.values():
            self._queue(None, queues)

    def followers(self, account: str) -> int:
        """How many streams of this account are open."""
        return len(self._streams.get(account, []))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()
        request = Request(scope, receive)
        answer = await self._staged(request) if scope["type"] == "http" else None
        if answer is None:
            await self.world.app(scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def _staged(self, request: Request) -> Response | None:
        path = request.scope["raw_path"].decode()
        self.asked.append(f"{request.method} {path}")
        parts = path.split("/")
        if (
            request.method == "GET"
            and len(parts) == 5
            and parts[2] == "accounts"
            and parts[4] in ("meter", "charges", "periods", "stream")
        ):
            if what := request.headers.get("last-event-id"):
                self.resumed.append(what)
            return await self._about(unquote(parts[3]), parts[4], request)
        found = self.answers.get(f"{request.method} {path}")
        if found is None:
            return None
        if request.method != "GET":
            body = await request.body()
            self.posted.append((path, json.loads(body) if body else None))
        if isinstance(found, Response):
            return found
        return JSONResponse(found(request) if callable(found) else found)

    async def _about(self, account: str, what: str, request: Request) -> Response:
        await asyncio.to_thread(self.may_answer.wait)
        if self.is_away:
            return problem_response(
                "counters_unavailable", "Redis does not answer. Ask again in a moment"
            )
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            caller = self.world.keys.caller(token, self.world.now)
        except NotAuthentic as error:
            return problem_response("unauthenticated", str(error))
        if token in self.ended:
            return problem_response("unauthenticated", "the token has ended: mint another one")
        if caller.account not in (None, account) or account not in self.accounts:
            return problem_response(
                "forbidden",
                "an account token works on the paths of its own account alone: use an app key here",
            )
        shown = self.accounts[account]
        if what == "stream":
            return EventSourceResponse(self._follow(account), ping=15)
        if what == "meter":
            return JSONResponse(shown.meter)
        items = shown.charges if what == "charges" else shown.periods
        begin, limit = (
            int(request.query_params.get("cursor", 0)),
            int(request.query_params.get("limit", 50)),
        )
        end = begin + limit
        return JSONResponse(
            {"items": items[begin:end], "next_cursor": str(end) if end < len(items) else None}
        )

    async def _follow(self, account: str) -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[ServerSentEvent | None] = asyncio.Queue()
        self._streams.setdefault(account, []).append(queue)
        try:
            meter = self.accounts[account].meter
            yield ServerSentEvent(
                json.dumps(made_up.live_figures(meter, at=datetime.fromisoformat(meter["at"]))),
                event="meter",
            )
            while (said := await queue.get()) is not None:
                yield said
        finally:
            self._streams[account].remove(queue)

    def _queue(
        self, said: ServerSentEvent | None, queues: Sequence[asyncio.Queue[ServerSentEvent | None]]
    ) -> None:
        assert self._loop is not None
        for queue in list(queues):
            self._loop.call_soon_threadsafe(queue.put_nowait, said)


@contextmanager
def on_stage(directory: Path) -> Iterator[GatewayOnStage]:
    """A gateway that listens on a free port while the context lasts."""
    gateway = GatewayOnStage(directory)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            gateway, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        gateway.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.start()
        try:
            yield gateway
        finally:
            gateway.may_answer.set()
            gateway.hang_up() if gateway._loop else None
            server.should_exit = True
            thread.join(10)
            gateway.world.close()
