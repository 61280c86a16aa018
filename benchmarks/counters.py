"""What Redis counts itself: its commands. Standard library only, for the peers' environments."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import urlparse


@dataclass(frozen=True, slots=True)
class RedisCalls:
    """Since the server's start. `commands` holds those inside of scripts too, `scripts` the script calls."""

    commands: int
    scripts: int

    def since(self, before: RedisCalls) -> RedisCalls:
        return RedisCalls(self.commands - before.commands, self.scripts - before.scripts)


def redis_calls(url: str) -> RedisCalls:
    """The counters of the Redis at this URL, read over a connection of its own."""
    address = urlparse(url)
    with socket.create_connection((address.hostname or "127.0.0.1", address.port or 6379), timeout=10) as on:
        on.sendall(b"INFO commandstats\r\n")
        with on.makefile("rb") as answer:
            length = int(answer.readline()[1:])
            return parse_commandstats(answer.read(length).decode())


def parse_commandstats(text: str) -> RedisCalls:
    """From lines such as `cmdstat_get:calls=3,usec=12,…`. INFO itself does not count."""
    calls = {}
    for line in text.splitlines():
        name, _, values = line.partition(":calls=")
        if values:
            calls[name.removeprefix("cmdstat_")] = int(values.partition(",")[0])
    calls.pop("info", None)
    scripts = sum(calls.get(name, 0) for name in ("eval", "evalsha", "fcall"))
    return RedisCalls(sum(calls.values()), scripts)
