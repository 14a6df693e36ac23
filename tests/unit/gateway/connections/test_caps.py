"""How many connections may be open, and which one gives way."""

from __future__ import annotations

from ipaddress import ip_network

from usageledger.gateway.connections.caps import Caps


class Idle:
    """A connection that waits for a request, until it has to give way."""

    def __init__(self, caps: Caps) -> None:
        self.gave_way = False
        self._caps = caps
        caps.waiting[self] = None

    def make_room(self) -> None:
        self.gave_way = True
        del self._caps.waiting[self]


def test_an_address_has_a_number_of_connections_and_others_are_let_in() -> None:
    caps = Caps(100, per_address=2)
    leave = caps.enter("192.0.2.7")
    caps.enter("192.0.2.7")
    assert caps.refusal("192.0.2.7") == "192.0.2.7 has 2 connections already"
    assert caps.refusal("192.0.2.8") is None
    leave()
    leave()
    assert caps.refusal("192.0.2.7") is None, "one has left"
    caps.enter("192.0.2.7")
    assert caps.refusal("192.0.2.7") is not None, "leaving twice counts once"


def test_a_trusted_proxy_has_the_connections_of_all_its_clients() -> None:
    caps = Caps(100, per_address=1, proxies=[ip_network("10.0.0.0/8")])
    for _ in range(5):
        assert caps.refusal("10.1.2.3") is None
        caps.enter("10.1.2.3")
    assert caps.is_proxy("10.1.2.3")
    assert not caps.is_proxy("192.0.2.7")
    assert not caps.is_proxy("a name")


def test_when_all_places_are_occupied_the_longest_wait_ends() -> None:
    caps = Caps(2, per_address=10)
    oldest, newer = Idle(caps), Idle(caps)
    for _ in range(2):
        caps.enter("192.0.2.7")
    assert caps.refusal("192.0.2.8") is None
    caps.enter("192.0.2.8")
    assert (oldest.gave_way, newer.gave_way) == (True, False)


def test_a_connection_is_refused_when_all_others_are_busy() -> None:
    caps = Caps(2, per_address=10)
    for _ in range(2):
        caps.enter("192.0.2.7")
    assert caps.refusal("192.0.2.8") == "all 2 connections are busy"
