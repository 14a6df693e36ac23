"""Which addresses a webhook may be sent to.

A key holder chooses the URL, and the gateway can reach networks that the key holder cannot (SSRF).

``public`` (the default) allows https to public addresses. ``loopback`` also allows this machine,
over http too, as on the one-machine stack. ``any`` allows every address, over http too. Names are
resolved for each attempt, and the address that was checked is the one that is connected to. So a
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
# Not public, though ``ipaddress`` calls some of them global: IPv4 addresses in the old IPv6 form, a
# network's own translation (RFC 8215), and site-local addresses.
_NOT_PUBLIC = tuple(
    ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b:1::/48", "fec0::/10")
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotAllowed(ValueError):
    """A webhook may not be sent there. The message says why."""


def check_url(url: str, reach: Reach) -> SplitResult:
    """The parts of a URL, if a webhook may be sent to it as far as the URL itself says.

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
        raise NotAllowed(
            f"that is not a URL ({error}): send one such as https://app.example/hooks/usage"
        ) from None
    if parts.scheme not in ("https", "http") or not host or port == 0:
        raise NotAllowed("a webhook needs a URL such as https://app.example/hooks/usage")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise NotAllowed(
            "the URL of a webhook has no user, password or fragment: remove them. Deliveries are "
            "signed, so the receiver needs no secret in the URL"
        )
    address = _ip_literal(host)
    is_local = host in LOCAL_NAMES or (address is not None and address.is_loopback)
    if is_local and reach == "public":
        raise NotAllowed(
            "this gateway delivers to public addresses only: set "
            "USAGELEDGER_GATEWAY_WEBHOOK_REACH to allow others"
        )
    if parts.scheme == "http" and reach != "any" and not is_local:
        raise NotAllowed("a webhook needs https: its body is signed, not encrypted")
    if address is not None:
        check_address(address, reach)
    return parts


def check_address(address: Address, reach: Reach) -> None:
    """Raises NotAllowed unless a webhook may be sent to this address."""
    if reach == "any" or (reach == "loopback" and address.is_loopback):
        return
    for one in (address, *_embedded_addresses(address)):
        if not one.is_global or one.is_multicast or any(one in network for network in _NOT_PUBLIC):
            raise NotAllowed(
                f"{address} is not a public address, and this gateway delivers to no other: set "
                "USAGELEDGER_GATEWAY_WEBHOOK_REACH to allow it"
            )


def addresses_of(host: str, port: int, reach: Reach) -> list[str]:
    """The addresses of a host, IPv4 first. Blocking. Raises NotAllowed, OSError."""
    literal = _ip_literal(host)
    if literal is not None:
        check_address(literal, reach)
        return [host]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # If only one of the two families works, it is nearly always IPv4.
    addresses = list(
        dict.fromkeys(
            str(entry[4][0])
            for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
        )
    )
    for address in addresses:
        check_address(ipaddress.ip_address(address.partition("%")[0]), reach)
    return addresses


def _ip_literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _embedded_addresses(address: Address) -> list[Address]:
    """The IPv4 addresses that are embedded in an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    inner: list[Address] = [
        one for one in (address.ipv4_mapped, address.sixtofour) if one is not None
    ]
    if address in _NAT64:
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return inner
