"""What follows rows that were written on a caller's connection: done once the caller's commit is done.

SQLAlchemy announces a commit before it happens, so the moves wait from there to the next sign of life of
the connection: its return to the pool or its next transaction. A rollback forgets them. If the process dies
in between, or the connection is held without another transaction, the sweeper pushes their tickets after its
grace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection

from app.tasks.model import Moved

Follow = Callable[[list[Moved]], None]

_WAITING = "twintrack.waiting"
_COMMITTED = "twintrack.committed"


def after_commit(connection: Connection, move: Moved, follow: Follow) -> None:
    """Call `follow` with `move` after the transaction that `connection` is in has been committed.

    `follow` must not raise: it runs inside the caller's pool.
    """
    _listen(connection.engine)
    connection.info.setdefault(_WAITING, []).append((follow, move))


def _listen(engine: Engine) -> None:
    if event.contains(engine, "commit", _on_commit):
        return
    event.listen(engine, "commit", _on_commit)
    event.listen(engine, "rollback", _on_rollback)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine.pool, "checkin", _on_checkin)


def _on_commit(connection: Connection) -> None:
    waiting = connection.info.pop(_WAITING, None)
    if waiting:
        connection.info.setdefault(_COMMITTED, []).extend(waiting)


def _on_rollback(connection: Connection) -> None:
    if connection.invalidated:
        return  # the server is gone, and what waited on that connection with it
    connection.info.pop(_WAITING, None)
    connection.info.pop(_COMMITTED, None)


def _on_begin(connection: Connection) -> None:
    _flush(connection.info)


def _on_checkin(_connection: Any, record: Any) -> None:
    record.info.pop(_WAITING, None)
    _flush(record.info)


def _flush(info: dict[str, Any]) -> None:
    by_follow: dict[Follow, list[Moved]] = {}
    for follow, move in info.pop(_COMMITTED, ()):
        by_follow.setdefault(follow, []).append(move)
    for follow, moves in by_follow.items():
        follow(moves)
