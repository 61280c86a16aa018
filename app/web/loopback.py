"""What a request's headers say about where it comes from: this very machine, or a page of another site."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flask import Request

# Any of these means that somebody stands between the caller and us.
_RELAYED = frozenset(
    {
        "forwarded",
        "via",
        "x-real-ip",
        "x-client-ip",
        "x-cluster-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
    }
)
_RELAYED_PREFIX = "x-forwarded"


def is_direct_loopback(request: Request) -> bool:
    """True if the caller is on this machine, without a proxy, and asked for a loopback name.

    The name is checked because a foreign site can make a browser here call us under the site's own name
    (DNS rebinding).
    """
    if any(_is_relay_header(name.lower()) for name in request.headers.keys()):  # noqa: SIM118 - not a dict
        return False
    return _is_loopback_address(request.remote_addr or "") and _is_loopback_name(host_name(request.host))


def is_cross_site(request: Request) -> bool:
    """True if a browser says that another site's page has sent this request."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.host.lower()


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_relay_header(name: str) -> bool:
    return name in _RELAYED or name.startswith(_RELAYED_PREFIX)


def _is_loopback_name(name: str) -> bool:
    return name.lower() == "localhost" or _is_loopback_address(name)


def _is_loopback_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
