"""How many connections may be open: in all, and of one address."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Protocol

from usageledger.gateway.access.strangers import counted_address
from usageledger.gateway.metrics import CONNECTIONS

FILES = 16_384
FILES_RESERVED = 256
"""Open files that connections leave to the rest of the gateway: Redis, Kafka, SQLite, webhooks."""
PER_ADDRESS = 2_048

Networks = Sequence[IPv4Network | IPv6Network]


class Waiting(Protocol):
    """A connection that waits for a request."""

    def make_room(self) -> None:
        """Close, because another connection needs the place."""
        ...


class Caps:
    """The open connections, and whether there is room for one more.

    If there is none, the connection that has waited longest for a request gives way. So clients
    that connect and send nothing keep nobody out.
    """

    def __init__(
        self, connections_max: int, per_address: int = PER_ADDRESS, proxies: Networks = ()
    ) -> None:
        self._max = connections_max
        self._per_address = per_address
        self._proxies = proxies
        self._open = 0
        self._by_address: dict[str, int] = {}
        self.waiting: dict[Waiting, None] = {}
        """The connections that wait for a request; the first has waited longest."""

    def is_proxy(self, host: str) -> bool:
        """Whether a peer is a trusted proxy, whose connections are those of many clients."""
        try:
            address = ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def refusal(self, host: str) -> str | None:
        """Why a peer may not connect now; None if it may."""
        address = counted_address(host)
        if not self.is_proxy(host) and self._by_address.get(address, 0) >= self._per_address:
            return f"{address} has {self._per_address} connections already"
        if self._open >= self._max and not self.waiting:
            return f"all {self._max} connections are busy"
        return None

    def enter(self, host: str) -> Callable[[], None]:
        """Count a connection. Returns a function that ends the count; it may be called twice."""
        if self._open >= self._max and self.waiting:
            next(iter(self.waiting)).make_room()
        address, is_counted = counted_address(host), True
        self._open += 1
        self._by_address[address] = self._by_address.get(address, 0) + 1
        CONNECTIONS.set(self._open)

        def leave() -> None:
            nonlocal is_counted
            if not is_counted:
                return
            is_counted = False
            self._open -= 1
            CONNECTIONS.set(self._open)
            left = self._by_address.pop(address) - 1
            if left:
                self._by_address[address] = left

        return leave


def connections_allowed() -> int:
    """How many connections this process may have, after raising its limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = FILES if soft == resource.RLIM_INFINITY else min(FILES, soft)
    return max(files - FILES_RESERVED, files // 2)
