"""Addresses that are not for the public, by the registries of IANA.

``ipaddress`` calls some of them global, and which ones depends on the release of Python. Sources:

- https://www.iana.org/assignments/iana-ipv4-special-registry
- https://www.iana.org/assignments/iana-ipv6-special-registry
- https://www.iana.org/assignments/ipv6-address-space: only 2000::/3 is global unicast

Whole blocks are refused, also where the registry calls a single address in them reachable: nobody
has a webhook there. The blocks include every address that embeds one of IPv4: mapped, NAT64, 6to4
and Teredo.
"""

from __future__ import annotations

import ipaddress

SPECIAL_IPV4 = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # between a provider and its clients
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local, and the metadata of clouds
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # IETF protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # AMT
    "192.88.99.0/24",  # 6to4 relays
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
SPECIAL_IPV6 = (
    "::/3",  # loopback, IPv4-mapped, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), discard (100::/64)
    "2001::/23",  # IETF protocol assignments, Teredo among them
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
    "4000::/2",  # not global unicast; segment routing (5f00::/16)
    "8000::/1",  # not global unicast; private (fc00::/7), link-, site-local, multicast
)

_IPV4 = tuple(ipaddress.IPv4Network(network) for network in SPECIAL_IPV4)
_IPV6 = tuple(ipaddress.IPv6Network(network) for network in SPECIAL_IPV6)


def is_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is not for the public."""
    return any(address in network for network in (_IPV4 if address.version == 4 else _IPV6))
