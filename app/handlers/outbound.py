"""HTTP requests on behalf of a submitter: address rule, pinned address, redirects, deadline.

The name is resolved once per hop, the rule judges the addresses, and the connection goes to one of
exactly these: a name that answers differently the second time (DNS rebinding) finds no second time.
The environment's proxies are not used, because a proxy would resolve the name again.
"""

from __future__ import annotations

import functools
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from app.handlers.addresses import NameNotResolved, Resolver, callable_addresses, resolve
from app.tasks.handlers import DoNotRetry

URL_LIMIT = 2048
PORTS = (None, *range(1, 65_536))
HOST = re.compile(rb"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}")
RETRY_STATUSES = frozenset({408, 429, *range(500, 600)})

# What a redirect to another origin still receives: none of these can hold a secret of the first one.
HEADERS_FOR_OTHER_ORIGINS = frozenset(
    {"accept", "accept-encoding", "content-length", "content-type", "host", "idempotency-key", "user-agent"}
)


class DeadlinePassed(Exception):
    """The exchange took too long; `exchange` turns it into `RequestFailed`."""


class RequestFailed(Exception):
    """The other side did not answer as it should have; a later attempt may succeed."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request to send. `url` has passed `checked_url`."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    timeout_seconds: float = 30.0
    redirects: int = 0
    allow_private: bool = False


class Deadline:
    """The moment by which a whole exchange, all its redirects included, must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, more than 0. Raises `DeadlinePassed` when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlinePassed
        return left


class PinnedTransport(httpx.BaseTransport):
    """Connects to an address that the rule has judged, while TLS and Host keep the name."""

    def __init__(self, *, allow_private: bool, resolver: Resolver, tls: ssl.SSLContext) -> None:
        self._allow_private = allow_private
        self._resolver = resolver
        # A kept connection is found by its number: it could serve a second name that TLS never checked.
        alone = httpx.Limits(max_keepalive_connections=0)
        self._network = httpx.HTTPTransport(verify=tls, trust_env=False, limits=alone)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        addresses = callable_addresses(host, port, allow_private=self._allow_private, resolver=self._resolver)
        attempts = [_pinned(request, host, address, len(addresses)) for address in addresses]
        for attempt in attempts[:-1]:
            try:
                return self._network.handle_request(attempt)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return self._network.handle_request(attempts[-1])

    def close(self) -> None:
        self._network.close()


def _pinned(request: httpx.Request, host: str, address: str, address_count: int) -> httpx.Request:
    timeout = dict(request.extensions["timeout"])
    timeout["connect"] /= address_count
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host, "timeout": timeout},
    )


@functools.cache
def trusted_authorities() -> ssl.SSLContext:
    """The authorities of the certifi list and of the system; made once, because it costs 20 ms."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def checked_url(text: str) -> str:
    """The URL, if a task may name it. Raises `ValueError` with the end of a sentence, never the URL."""
    if len(text) > URL_LIMIT:
        raise ValueError(f"must be at most {URL_LIMIT} characters long")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("must be a valid URL") from None
    if url.scheme not in ("http", "https"):
        raise ValueError("must start with http:// or https://")
    if not url.host:
        raise ValueError("must name a host")
    if not HOST.fullmatch(url.raw_host) or url.port not in PORTS:
        raise ValueError("must be a valid URL")
    if url.userinfo:
        raise ValueError("must not hold a user name or password; send an Authorization header")
    return text


def origin(url: str | httpx.URL) -> str:
    """Scheme, host and port: all of a URL that an error may show, as paths and queries can be secrets."""
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"


@contextmanager
def exchange(
    outgoing: Outgoing, *, resolver: Resolver = resolve
) -> Iterator[tuple[httpx.Response, Deadline]]:
    """Send a request and yield the answer, its body unread, with the time left for reading it.

    Raises `RequestFailed` when trying again may help, else `DoNotRetry`; neither shows a header, a path
    or a query.
    """
    deadline = Deadline(outgoing.timeout_seconds)
    transport = PinnedTransport(
        allow_private=outgoing.allow_private, resolver=resolver, tls=trusted_authorities()
    )
    with _plain_errors(outgoing), httpx.Client(transport=transport, trust_env=False) as client:
        request = client.build_request(
            outgoing.method, outgoing.url, headers=dict(outgoing.headers), content=outgoing.content
        )
        response = _follow(client, request, outgoing.redirects, deadline)
        try:
            yield response, deadline
        finally:
            response.close()


def read_at_most(response: httpx.Response, limit_bytes: int, deadline: Deadline) -> tuple[bytes, bool]:
    """The first `limit_bytes` of the decoded body, and whether there was more."""
    body = bytearray()
    # Without a chunk size: a chunk that waits to be full would hide the deadline from a slow sender.
    for chunk in response.iter_bytes():
        deadline.remaining()
        body += chunk
        if len(body) > limit_bytes:
            return bytes(body[:limit_bytes]), True
    return bytes(body), False


def _follow(
    client: httpx.Client, request: httpx.Request, redirects: int, deadline: Deadline
) -> httpx.Response:
    for _ in range(redirects):
        response = _send(client, request, deadline)
        if response.next_request is None:
            return response
        response.close()
        request = _next_hop(request, response.next_request)
    response = _send(client, request, deadline)
    if redirects and response.next_request is not None:
        response.close()
        raise DoNotRetry(f"url: {origin(request.url)} redirects more than {redirects} times")
    return response


def _send(client: httpx.Client, request: httpx.Request, deadline: Deadline) -> httpx.Response:
    request.extensions["timeout"] = httpx.Timeout(deadline.remaining()).as_dict()
    return client.send(request, stream=True)


def _next_hop(request: httpx.Request, following: httpx.Request) -> httpx.Request:
    try:
        checked_url(str(following.url))
    except ValueError as error:
        raise DoNotRetry(f"url: {origin(request.url)} redirects to a URL that {error}") from None
    if origin(following.url) != origin(request.url):
        for name in list(following.headers):
            if name.lower() not in HEADERS_FOR_OTHER_ORIGINS:
                del following.headers[name]
    return following


@contextmanager
def _plain_errors(outgoing: Outgoing) -> Iterator[None]:
    """Translate what httpx raises: its texts may repeat a header's value."""
    place = origin(outgoing.url)
    try:
        yield
    except (httpx.TimeoutException, DeadlinePassed):
        seconds = outgoing.timeout_seconds
        raise RequestFailed(f"{place}: no complete answer within {seconds:g} seconds") from None
    except NameNotResolved as error:
        raise RequestFailed(f"{place}: {error}") from None
    except httpx.ConnectError as error:
        raise RequestFailed(f"{place}: {_why_not_connected(error)}") from None
    except httpx.LocalProtocolError:
        raise DoNotRetry("headers: one of them is not valid in HTTP") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RequestFailed(f"{place}: the exchange broke off ({type(error).__name__})") from None


def _why_not_connected(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its TLS certificate is not valid for this host"
        cause = cause.__cause__ or cause.__context__
    return "no connection could be made"
