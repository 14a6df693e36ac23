"""Route: an account's stream of Server-Sent Events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from usageledger.gateway.access.app_keys import Caller
from usageledger.gateway.dependencies import AccountPath, Needs, Parts, still_let_in
from usageledger.gateway.problems import problems
from usageledger.gateway.streams.account_streams import Client, Streams
from usageledger.gateway.streams.limit_store import before_all
from usageledger.ledger.limit_address import LimitAddress

router = APIRouter(tags=["limit events"])

KEEP_ALIVE_S = 15
SEND_WITHIN_S = 20
"""A client that takes nothing for so long is cut off."""
COME_AGAIN_AFTER_MS = 2_000

_ID = re.compile(r"(\d{1,9})-(?:none|(\d{1,18})-(\d{1,9}))", re.ASCII)

_EXAMPLE = (
    ": limit events from now on\nid: 3-998-0\nretry: 2000\n\n"
    'event: meter\ndata: {"account":"acct_4821","at":"2026-11-25T10:00:00Z","remaining":"0", …}\n\n'
    "id: 3-1042-0\nevent: limit.reached\ndata: "
    '{"specversion":"1.0","type":"limit.reached","id":"3-1042-0", …}\n\n'
    ": keep-alive\n\n"
)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream that goes on until it is closed.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    **problems("too_many_streams", "not_ready"),
}


@router.get(
    "/v1/accounts/{account:segment}/stream",
    response_class=EventSourceResponse,
    responses=_RESPONSES,
)
async def stream_account(
    account: AccountPath,
    request: Request,
    gateway: Parts,
    caller: Annotated[Caller, Depends(Needs("read"))],
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Go on after this limit event.")
    ] = None,
) -> EventSourceResponse:
    """Follow an account as Server-Sent Events.

    `meter` has the figures of `GET …/meter` that counters alone can tell, at once and whenever they
    change; the latest win. `limit.threshold`, `limit.reached` and `limit.cleared` are the account's
    limit events, each once and in order, with an `id`.

    With `Last-Event-ID` the account's limit events after that one come first, for 35 days, also
    across restarts of the gateway. It is the id of any limit event of the account's partition, such
    as those of `GET /v1/blocked`. With an id that cannot be of that partition, a comment says so,
    and limit events come from now on. A stream begins with an id without an event, `3-none` where
    partition 3 has had no limit event yet: who comes again with it misses nothing, though no event
    has come meanwhile.

    `token_expired` is the last event of a stream whose token has ended or whose key no longer
    works: mint another token and connect again. A comment every 15 seconds keeps the connection
    open.
    """
    streams, partition = gateway.streams, gateway.accounts.partition(account)
    after, remark = _resumed(last_event_id, partition)
    if after is None:
        # Asked before the client listens: what comes in between is among what it has missed.
        after = await gateway.store_thread.run(gateway.limits.last_place, partition)
    client = streams.open(
        account, still_let_in(request, gateway), has_token=caller.account is not None
    )
    return _AccountStream(streams, client, after, remark)


class _AccountStream(EventSourceResponse):
    """The stream of one client, which is forgotten however it ends."""

    def __init__(self, streams: Streams, client: Client, after: LimitAddress, remark: str) -> None:
        super().__init__(
            _begun(remark, after, streams.messages(client, after)),
            ping=KEEP_ALIVE_S,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            send_timeout=SEND_WITHIN_S,
            sep="\n",
        )
        self._streams = streams
        self._client = client

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            self._client.cut("too_slow", b"")
        finally:
            self._streams.close(self._client)


async def _begun(
    remark: str, after: LimitAddress, messages: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """A stream from its beginning.

    An id without data is what a client comes again with that has heard of no limit event until
    then.
    """
    last = f"{after.partition}-none" if after == before_all(after.partition) else after.id
    yield ServerSentEvent(comment=remark, id=last, retry=COME_AGAIN_AFTER_MS, sep="\n").encode()
    async for message in messages:
        yield message


def _resumed(last_event_id: str | None, partition: int) -> tuple[LimitAddress | None, str]:
    """Where to go on, and what is said of it."""
    if not last_event_id:
        return None, "limit events from now on"
    found = _ID.fullmatch(last_event_id)
    if found is None or int(found[1]) != partition:
        return (
            None,
            "that Last-Event-ID is none of this account's partition: limit events from now on",
        )
    if found[2] is None:
        return before_all(partition), "limit events from the first one on"
    offset, index = int(found[2]), int(found[3])
    return LimitAddress(partition, offset, index, index + 1), f"limit events after {last_event_id}"
