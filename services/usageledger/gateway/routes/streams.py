"""Route: an account's stream of Server-Sent Events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from usageledger.gateway.dependencies import (
    AccountPath,
    CredentialCheck,
    MayRead,
    TheAccounts,
    TheLimits,
    TheStoreThread,
    TheStreams,
)
from usageledger.gateway.problems import problems
from usageledger.gateway.streams.account_streams import Client, Streams
from usageledger.gateway.streams.limit_store import before_all
from usageledger.ledger.limit_address import LimitAddress

router = APIRouter(tags=["limit events"])

KEEP_ALIVE_S = 15
SEND_WITHIN_S = 20
"""A client that reads nothing for this long is disconnected."""
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
        "description": "A stream that stays open until one side closes it.",
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
    accounts: TheAccounts,
    streams: TheStreams,
    limits: TheLimits,
    thread: TheStoreThread,
    still_works: CredentialCheck,
    caller: MayRead,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Begin after this limit event.")
    ] = None,
) -> EventSourceResponse:
    """Follow an account as Server-Sent Events.

    `meter` has those figures of `GET …/meter` that come from the counters: at once, and whenever
    they change. A slow client gets only the latest. `limit.threshold`, `limit.reached` and
    `limit.cleared` are the account's limit events, each once and in order, with an `id`.

    With `Last-Event-ID`, the account's limit events after that one come first, for 35 days and
    across restarts of the gateway. It may be the id of any limit event of the account's partition,
    such as those of `GET /v1/blocked`. If it cannot be of that partition, a comment says so, and
    limit events come from now on. A stream begins with an id without an event: `3-none` if
    partition 3 has had no limit event yet. A client that connects again with that id misses
    nothing, even if no event has come in between.

    `token_expired` is the last event of a stream whose token has ended, or whose key no longer
    works: mint another token and connect again. A comment every 15 seconds keeps the connection
    open.
    """
    partition = accounts.partition(account)
    after, remark = _resume_point(last_event_id, partition)
    if after is None:
        # Read before the client listens: an event in between is replayed as a missed one.
        after = await thread.run(limits.last_address, partition)
    client = streams.open(account, still_works, has_token=caller.account is not None)
    return _AccountStream(streams, client, after, remark)


class _AccountStream(EventSourceResponse):
    """The stream of one client. The client is closed however the stream ends."""

    def __init__(self, streams: Streams, client: Client, after: LimitAddress, remark: str) -> None:
        super().__init__(
            _from_beginning(remark, after, streams.messages(client, after)),
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


async def _from_beginning(
    remark: str, after: LimitAddress, messages: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """A stream's messages, preceded by an id without an event.

    A client that is disconnected before the first limit event connects again with that id.
    """
    last = f"{after.partition}-none" if after == before_all(after.partition) else after.id
    yield ServerSentEvent(comment=remark, id=last, retry=COME_AGAIN_AFTER_MS, sep="\n").encode()
    async for message in messages:
        yield message


def _resume_point(last_event_id: str | None, partition: int) -> tuple[LimitAddress | None, str]:
    """The limit event to begin after, None for the present, and a remark that says so."""
    if not last_event_id:
        return None, "limit events from now on"
    found = _ID.fullmatch(last_event_id)
    if found is None or int(found[1]) != partition:
        return (
            None,
            "that Last-Event-ID is not of this account's partition: limit events from now on",
        )
    if found[2] is None:
        return before_all(partition), "limit events from the first one on"
    offset, index = int(found[2]), int(found[3])
    return LimitAddress(partition, offset, index, index + 1), f"limit events after {last_event_id}"
