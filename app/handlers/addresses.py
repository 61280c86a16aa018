"""Which network addresses a task may call.

A task's payload comes from a submitter, and the worker stands inside our network: without this rule a
submitter could read the metadata service of a cloud or the admin page of a neighbour. The rule looks at
the numbers that a name resolved to, and the caller connects to exactly those numbers.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from app.tasks.handlers import DoNotRetry

Address = IPv4Address | IPv6Address
Resolver = Callable[[str, int], list[str]]

NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# Not of the public internet, though `is_global` of some Python versions says so.
NOT_PUBLIC = (
    IPv4Network("192.0.0.0/24"),  # RFC 6890: protocol assignments
    IPv4Network("192.88.99.0/24"),  # RFC 7526: former 6to4 relays
    IPv6Network("64:ff9b:1::/48"),  # RFC 8215: a NAT64 whose place for the IPv4 address is the site's choice
    IPv6Network("3fff::/20"),  # RFC 9637: documentation
    IPv6Network("fec0::/10"),  # RFC 3879: former site-local
)


class AddressRefused(DoNotRetry):
    """The host is at an address that tasks may not call; another attempt would be refused as well."""


class NameNotResolved(Exception):
    """The name service has no address for the host now; it may have one later."""


def resolve(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, best first. Raises `NameNotResolved`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NameNotResolved(f"the host name {host!r} cannot be resolved") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def callable_addresses(
    host: str, port: int, *, allow_private: bool, resolver: Resolver = resolve
) -> list[str]:
    """The addresses to connect to, in the resolver's order.

    One address that is not public refuses the host as a whole: an honest public name has none.
    Raises `AddressRefused` or `NameNotResolved`.
    """
    addresses = resolver(host, port)
    if not addresses:
        raise NameNotResolved(f"the host name {host!r} cannot be resolved")
    if not allow_private and not all(is_public(ip_address(address)) for address in addresses):
        raise AddressRefused(
            f"url: {host} is at a private or reserved address, which tasks may not call"
            " unless the setting HTTP_ALLOW_PRIVATE is true"
        )
    return addresses


def is_public(address: Address) -> bool:
    """True for a unicast address of the public internet, seen through IPv6 forms that carry an IPv4 one."""
    if isinstance(address, IPv6Address):
        carried = list(_carried_ipv4(address))
        if carried:
            return all(is_public(inner) for inner in carried)
    if any(address in network for network in NOT_PUBLIC):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _carried_ipv4(address: IPv6Address) -> Iterator[IPv4Address]:
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if address in NAT64:
        yield IPv4Address(int(address) & 0xFFFF_FFFF)
