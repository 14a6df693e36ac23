"""Clients without a valid key: how often an address may ask, and that it waits afterwards.

An address is that of the client, or the one that a trusted proxy names. All addresses of an IPv6
network of 64 bits count as one, because one client usually has them all.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from usageledger.gateway.access.rate_limits import RateLimits
from usageledger.gateway.problems import Problem, answer_to

if TYPE_CHECKING:
    from usageledger.gateway.parts import Gateway

API = "/v1/"
"""The paths below need a credential, all of them. No other path does."""

READ_ON_AFTER_S = 1.0
_PAUSE = "usageledger_read_on_after_s"


class StrangersWithinLimits:
    """ASGI middleware that counts requests without a credential, by address.

    Requests for pages count with a credential too, because pages do not look at it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _is_of_a_stranger(scope):
            gateway: Gateway = scope["app"].state.gateway
            try:
                count_stranger(gateway.rate_limits, scope)
            except Problem as problem:
                return await answer_to(problem)(scope, receive, send)
        await self._app(scope, receive, send)


def count_stranger(rate_limits: RateLimits, scope: Scope) -> None:
    """Count a request without a valid credential, for its address. Raises Problem."""
    try:
        rate_limits.count_stranger(address_of(scope))
    except Problem:
        pause_reading(scope)
        raise


def address_of(scope: Scope) -> str:
    """The address that a request counts for: a client's, or the IPv6 network of 64 bits."""
    client = scope.get("client")
    return "" if client is None else counted_address(client[0])


def counted_address(host: str) -> str:
    """The address that a host's connections and requests count for."""
    if ":" not in host:
        return host
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    assert isinstance(address, IPv6Address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, 64), strict=False))


def pause_reading(scope: Scope) -> None:
    """Have the connection's next request wait, so that its client cannot ask in a tight loop."""
    scope.setdefault("state", {})[_PAUSE] = READ_ON_AFTER_S


def pause_s(scope: Scope) -> float:
    """How long the connection's next request waits; 0 if it does not."""
    found: float = scope.get("state", {}).get(_PAUSE, 0.0)
    return found


def _is_of_a_stranger(scope: Scope) -> bool:
    if not scope["path"].startswith(API) or scope["method"] == "OPTIONS":
        return True
    headers = Headers(scope=scope)
    return "authorization" not in headers and "cookie" not in headers
