"""LISTEN on PostgreSQL, over a connection of its own."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from app.tasks.database import Database
from app.tasks.errors import TaskError
from app.tasks.store.notices import NotListening

PROOF_SECONDS = 2.0
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 2))


class PostgresListener:
    """Hears one channel. Proven to hear before it is trusted: a pooler between may swallow notices."""

    def __init__(
        self, database: Database, channel: str, *, prove: Callable[[str], None], settling_seconds: float
    ) -> None:
        """`prove(word)` sends a notice with this word by the ordinary way. Raises `NotListening`."""
        self.settling_seconds = settling_seconds
        try:
            self._connection = _own_connection(database)
        except (SQLAlchemyError, psycopg.Error) as error:
            raise NotListening(f"no connection for notices: {type(error).__name__}") from error
        try:
            self._connection.execute(f"LISTEN {channel}".encode())
            _keep_alive(self._connection.fileno())
            self._prove(prove)
        except (psycopg.Error, TaskError, OSError) as error:
            self.close()
            raise NotListening(f"cannot listen: {type(error).__name__}") from error

    def wait(self, seconds: float) -> bool:
        try:
            return bool(self._heard(0) or self._heard(seconds))
        except (psycopg.Error, OSError, ValueError) as error:
            self.close()
            raise NotListening("the connection of notices was lost") from error

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.close()

    def _prove(self, prove: Callable[[str], None]) -> None:
        word = secrets.token_hex(8)
        prove(word)
        deadline = time.monotonic() + PROOF_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if word in self._heard(left):
                return
        self.close()
        raise NotListening("notices do not arrive")

    def _heard(self, seconds: float) -> list[str]:
        """The words of all notices that have come; waits for one if there is none."""
        line = self._connection.pgconn
        if seconds > 0:
            select.select([line.socket], [], [], seconds)
        line.consume_input()
        words = []
        while (notice := line.notifies()) is not None:
            words.append(notice.extra.decode())
        return words


def _own_connection(database: Database) -> psycopg.Connection[tuple[object, ...]]:
    """Outside any pool, committing by itself."""
    borrowed = database.engine.raw_connection()
    connection = borrowed.driver_connection
    borrowed.detach()
    assert isinstance(connection, psycopg.Connection)
    connection.rollback()
    connection.autocommit = True
    return connection


def _keep_alive(descriptor: int) -> None:
    """Have the kernel find out within seconds that the other end is gone without a word."""
    with socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as line:
        if line.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX:
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                line.setsockopt(socket.IPPROTO_TCP, option, value)
