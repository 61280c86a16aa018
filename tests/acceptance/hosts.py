"""Hosts for a test: network namespaces on a bridge, each with a name and an address of its own.

What they share is the file system and the kernel; what reaches the servers goes over the bridge. They are
made by root alone, and removed with the block, those of a run that was killed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.server_process import program

PREFIX = "twt"  # names of links have room for 15 characters
NAMED = (
    "import os, socket, sys; socket.sethostname(sys.argv[1]);"
    " os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 10).close()"
ENTER = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class Host:
    """One of them."""

    name: str
    space: str

    def command(self, *words: str) -> list[str]:
        """The words of a Python command that runs there, for `Stack.start`; its process stays one process."""
        named = [program("unshare"), "--uts", sys.executable, "-c", NAMED, self.name]
        return ["-c", ENTER, *self.entering(), *named, *words]

    def entering(self) -> list[str]:
        """What goes before a command that is to have this host's network."""
        return [program("nsenter"), f"--net=/run/netns/{self.space}"]


@dataclass(frozen=True, slots=True)
class Network:
    """The hosts, and the address by which they reach this process's machine."""

    address: str
    hosts: list[Host]


@contextlib.contextmanager
def network(count: int) -> Iterator[Network]:
    """So many hosts on a bridge. Skips the test, with the reason, where none can be made."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces, which stand for hosts here, can be made by root alone")
    if shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.skip(
            "there is no `ip` to make network namespaces with: scripts/install_test_servers.sh brings it"
        )
    _remove_left_over()
    bridge, net = f"{PREFIX}{os.getpid()}", _free_net()
    made = [Host(f"host{number}", f"{bridge}-{number}") for number in range(1, count + 1)]
    try:
        try:
            _make(bridge, net, made)
            _prove_that_they_reach(f"{net}.1", made)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces of use can be made here: {error.stderr.strip()}")
        yield Network(f"{net}.1", made)
    finally:
        _remove(bridge)


def _make(bridge: str, net: str, hosts: list[Host]) -> None:
    _ip("link", "add", bridge, "type", "bridge")
    _ip("address", "add", f"{net}.1/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for number, host in enumerate(hosts, start=1):
        outer, space = f"{bridge}v{number}", host.space
        _ip("netns", "add", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", outer, "master", bridge, "up")
        _ip("-n", space, "address", "add", f"{net}.{number + 1}/24", "dev", "eth0")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "link", "set", "lo", "up")


def _prove_that_they_reach(address: str, hosts: list[Host]) -> None:
    """A firewall of this machine may forbid it."""
    with socket.create_server((address, 0)) as server:
        for host in hosts:
            words = [sys.executable, "-c", CONNECT, address, str(server.getsockname()[1])]
            subprocess.run([*host.entering(), *words], capture_output=True, text=True, check=True)


def _remove(bridge: str) -> None:
    """The bridge, its hosts and their links. What is not there was not made."""
    for name in _spaces():
        if name.partition("-")[0] == bridge:
            _ip("netns", "delete", name)
    if bridge in _ip("-brief", "link", "show", "type", "bridge"):
        _ip("link", "delete", bridge)


def _remove_left_over() -> None:
    """What runs of the tests made that are gone, killed before they could remove it."""
    for name in {name.partition("-")[0] for name in _spaces() if name.startswith(PREFIX)}:
        if not os.path.exists(f"/proc/{name.removeprefix(PREFIX)}"):
            _remove(name)


def _spaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line]


def _free_net() -> str:
    """The beginning of a network of 256 addresses that no route here knows."""
    taken = _ip("-4", "route", "show")
    nets = [f"10.{random.randrange(128, 256)}.{random.randrange(256)}" for _ in range(50)]
    return next(net for net in nets if f"{net}." not in taken)


def _ip(*words: str) -> str:
    done = subprocess.run([program("ip"), *words], capture_output=True, text=True, check=True)
    return done.stdout
