"""Which addresses a webhook may be sent to.

A key holder chooses the URL, and the gateway can reach networks that the key holder cannot (SSRF).

``public`` (the default) allows https to public addresses. ``loopback`` also allows this machine,
over http too, as on the one-machine stack. ``any`` allows every address, over http too. Names are
resolved for each attempt, and the address that was checked is the one that is connected to. So a
name that changes in between leads nowhere else. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from usageledger.gateway.webhooks.special_addresses import is_special

Reach = Literal["public", "loopback", "any"]
URL_LENGTH_MAX = 2_000
PORTS = frozenset({443})
LOCAL_NAMES = frozenset({"localhost", "localhost."})

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Destinations(NamedTuple):
    """Where webhooks may be sent. ``ports`` are those of other machines; ours may use any."""

    reach: Reach = "public"
    ports: frozenset[int] = PORTS


PUBLIC = Destinations()


class NotAllowed(ValueError):
    """A webhook may not be sent there. The message says why."""


def check_url(url: str, allowed: Destinations) -> SplitResult:
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
    reach, address = allowed.reach, _ip_literal(host)
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
    if not is_local and port_of(parts) not in allowed.ports:
        raise NotAllowed(
            f"this gateway delivers to no port {port_of(parts)}: use port "
            f"{' or '.join(map(str, sorted(allowed.ports)))}, or add it to "
            "USAGELEDGER_GATEWAY_WEBHOOK_PORTS"
        )
    return parts


def port_of(url: SplitResult) -> int:
    """The port of a webhook's URL."""
    return url.port or (443 if url.scheme == "https" else 80)


def check_address(address: Address, reach: Reach) -> None:
    """Raises NotAllowed unless a webhook may be sent to this address."""
    if reach == "any" or (reach == "loopback" and address.is_loopback):
        return
    if is_special(address):
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
