"""Every range of the registries of IANA, at its boundaries, and what a webhook shows of it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from usageledger.gateway.webhooks.addresses import (
    Destinations,
    NotAllowed,
    addresses_of,
    check_address,
    check_url,
)
from usageledger.gateway.webhooks.sending import _attempt_of, _is_public
from usageledger.runtime.settings import GatewaySettings, SettingsError

# Written out apart from the table: the block, and whether the addresses beside it are public.
BLOCKS = [
    ("0.0.0.0/8", False, True),
    ("10.0.0.0/8", True, True),
    ("100.64.0.0/10", True, True),
    ("127.0.0.0/8", True, True),
    ("169.254.0.0/16", True, True),
    ("172.16.0.0/12", True, True),
    ("192.0.0.0/24", True, True),
    ("192.0.2.0/24", True, True),
    ("192.31.196.0/24", True, True),
    ("192.52.193.0/24", True, True),
    ("192.88.99.0/24", True, True),
    ("192.168.0.0/16", True, True),
    ("192.175.48.0/24", True, True),
    ("198.18.0.0/15", True, True),
    ("198.51.100.0/24", True, True),
    ("203.0.113.0/24", True, True),
    ("224.0.0.0/4", True, False),
    ("240.0.0.0/4", False, False),
    ("::/128", False, False),
    ("::1/128", False, False),
    ("::ffff:0:0/96", False, False),
    ("64:ff9b::/96", False, False),
    ("64:ff9b:1::/48", False, False),
    ("100::/64", False, False),
    ("1fff:ffff::/32", False, True),
    ("2001::/23", True, True),
    ("2001:db8::/32", True, True),
    ("2002::/16", True, True),
    ("2620:4f:8000::/48", True, True),
    ("3fff::/20", True, True),
    ("4000::/16", True, False),
    ("5f00::/16", False, False),
    ("fc00::/7", False, False),
    ("fe80::/10", False, False),
    ("fec0::/10", False, False),
    ("ff00::/8", False, False),
]


def is_allowed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        check_address(address, "public")
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(("block", "is_before_public", "is_after_public"), BLOCKS)
def test_a_special_block_is_refused_from_its_first_address_to_its_last(
    block: str, is_before_public: bool, is_after_public: bool
) -> None:
    network = ipaddress.ip_network(block)
    assert not is_allowed(network[0])
    assert not is_allowed(network[-1])
    if int(network[0]) > 0:
        assert is_allowed(network[0] - 1) == is_before_public
    if int(network[-1]) < 2**network.max_prefixlen - 1:
        assert is_allowed(network[-1] + 1) == is_after_public


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:10.0.0.7",
        "::ffff:93.184.216.34",
        "::10.0.0.7",
        "64:ff9b::a00:7",
        "2002:a00:7::1",
        "2001:0:a00:7::1",
    ],
)
def test_an_address_of_ipv4_inside_another_leads_nowhere(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address))


def test_a_name_with_one_private_address_is_refused_at_each_look_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name is resolved once for an attempt: the second answer of a rebinding name is not used."""
    answers = [["93.184.216.34"], ["93.184.216.34", "100.64.0.1"]]

    def resolved(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, 0, 0, "", (one, 443)) for one in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert addresses_of("app.example", 443, "public") == ["93.184.216.34"]
    with pytest.raises(NotAllowed):
        addresses_of("app.example", 443, "public")


def test_other_ports_are_allowed_by_their_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAGELEDGER_GATEWAY_WEBHOOK_PORTS", "443, 8443")
    allowed = Destinations("public", GatewaySettings().allowed_webhook_ports)
    check_url("https://app.example:8443/", allowed)
    with pytest.raises(NotAllowed, match="no port 8444: use port 443 or 8443"):
        check_url("https://app.example:8444/", allowed)
    for nonsense in ("443,", "https", "0", "65536"):
        monkeypatch.setenv("USAGELEDGER_GATEWAY_WEBHOOK_PORTS", nonsense)
        with pytest.raises(SettingsError):
            _ = GatewaySettings().allowed_webhook_ports


def test_a_body_from_a_private_address_is_not_quoted() -> None:
    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"the metadata service's secret"

    def error(address: str) -> str:
        response = httpx.Response(500, stream=Body())
        return asyncio.run(_attempt_of(response, is_quoted=_is_public(address))).error

    assert "secret" in error("93.184.216.34")
    for private in ("127.0.0.1", "169.254.169.254", "100.64.0.1", "fe80::1%eth0"):
        assert error(private) == "status 500"
