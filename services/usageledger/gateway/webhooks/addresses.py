"""Where a webhook may go: what names it is who has a key, and the gateway often stands where that
person cannot reach.

``public`` (the default): https, to public addresses. ``loopback``: this machine as well, by http
too, as on the one-machine stack. ``any``: whatever the gateway reaches, by http too. Names are
resolved for each attempt and the address that was looked at is the one that is connected to, so a
name that changes in between leads nowhere else.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Literal
from urllib.parse import SplitResult, urlsplit

Reach = Literal["public", "loopback", "any"]
URL_LENGTH_MAX = 2_000
LOCAL_NAMES = frozenset({"localhost", "localhost."})

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Not global, though ``ipaddress`` says so of some of them: IPv4 addresses as IPv6 once wrote them,
# a network's own translation (RFC 8215), and the site's own addresses.
_NOT_PUBLIC = tuple(
    ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b:1::/48", "fec0::/10")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotAllowed(ValueError):
    """A webhook may not go there. The message says why."""


def check_url(url: str, reach: Reach) -> SplitResult:
    """Whether a webhook may be sent to this URL, as far as the URL itself says.

    Raises NotAllowed.
    """
    if (
        len(url) > URL_LENGTH_MAX
        or not url.isascii()
        or any(letter <= " " or letter == "\\" for letter in url)
    ):
        raise NotAllowed(
            f"a URL has at most {URL_LENGTH_MAX} characters, all of them ASCII, without spaces"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise NotAllowed(f"that is no URL ({error})") from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise NotAllowed("a webhook goes to a URL such as https://app.example/hooks/usage")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise NotAllowed(
            "a URL has no user, password or fragment here: what is delivered is signed, so the "
            "receiver needs no secret in it"
        )
    address = _literal(host)
    is_local = host in LOCAL_NAMES or (address is not None and address.is_loopback)
    if is_local and reach == "public":
        raise NotAllowed(
            "this gateway delivers to public addresses alone (USAGELEDGER_GATEWAY_WEBHOOK_REACH)"
        )
    if parts.scheme == "http" and reach != "any" and not is_local:
        raise NotAllowed("a webhook goes over https: its body is signed, not encrypted")
    if address is not None:
        check_address(address, reach)
    return parts


def check_address(address: Address, reach: Reach) -> None:
    """Whether a webhook may be sent to this address. Raises NotAllowed."""
    if reach == "any" or (reach == "loopback" and address.is_loopback):
        return
    for one in (address, *_inner(address)):
        if not one.is_global or one.is_multicast or any(one in network for network in _NOT_PUBLIC):
            raise NotAllowed(
                f"{address} is no public address, and this gateway delivers to no other "
                "(USAGELEDGER_GATEWAY_WEBHOOK_REACH)"
            )


def addresses_of(host: str, port: int, reach: Reach) -> list[str]:
    """The addresses that a host has, each of which may be connected to.

    Blocking. Raises NotAllowed, OSError.
    """
    literal = _literal(host)
    if literal is not None:
        check_address(literal, reach)
        return [host]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # IPv4 first: where only one of the two works, it is nearly always that one.
    addresses = list(
        dict.fromkeys(
            str(place[4][0])
            for place in sorted(found, key=lambda place: place[0] != socket.AF_INET)
        )
    )
    for address in addresses:
        check_address(ipaddress.ip_address(address.partition("%")[0]), reach)
    return addresses


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _inner(address: Address) -> list[Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner: list[Address] = [
        one for one in (address.ipv4_mapped, address.sixtofour) if one is not None
    ]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return inner
