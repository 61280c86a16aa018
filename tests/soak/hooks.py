"""Puts the crash points around the product's calls to Redis and to the database, from outside.

At the level of the drivers, not of our own methods: a script is known by its hash in the command that is
sent, a transaction by the statements that it ran. So a rewritten caller keeps its crash points, and a step
that nobody passes any more shows as a point that was never hit.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import redis.connection
from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection

import app.tasks.tickets.manager as manager
import workers.sweeping
from app.tasks.database import Database
from app.tasks.model import Track
from tests.soak.points import here, passing
from workers.pool import Pool

LUA = Path(manager.__file__).parent / "lua"
# Scripts that move tickets, by the step that they are for. Others only look, or clear what is worth nothing.
STEP_OF_SCRIPT = {"take": "fetch", "finish": "end", "push": "push", "look": "look"}
# Read, show, or take away what is worth nothing; a kill around them is a kill between the steps above.
NO_STEP = frozenset(
    {"absent", "give_back", "next_job", "overflow", "present", "remove", "ring", "workers"},
)
_EVALSHA = re.compile(rb"EVALSHA\r\n\$40\r\n([0-9a-f]{40})")
_KINDS = "soak kinds"
_MOVES = (
    ("INSERT INTO transfers ", "begin"),
    ("UPDATE tasks SET status", "mark"),
    ("UPDATE transfer_batches SET", "deliver"),
    ("UPDATE routing SET", "flip"),
    ("UPDATE transfers SET", "finish"),
)
_UPDATE_TASKS = re.compile(r"\s*UPDATE tasks SET (.*)", re.IGNORECASE | re.DOTALL)


def install() -> None:
    """Wrap the drivers. Once per process, before the first connection; forks inherit it."""
    _wrap_redis(
        {
            hashlib.sha1((LUA / f"{name}.lua").read_bytes()).hexdigest().encode(): step
            for name, step in STEP_OF_SCRIPT.items()
        }
    )
    _wrap_transactions()
    _wrap_trips()
    _tell_roles_apart()


# --- Redis ------------------------------------------------------------------------------------------------


def _wrap_redis(steps: dict[bytes, str]) -> None:
    kind = redis.connection.AbstractConnection
    send: Any = kind.send_packed_command
    read: Any = kind.read_response

    def send_packed_command(self: Any, command: Any, check_health: bool = True) -> None:
        sent = b"".join(command) if isinstance(command, list) else command
        found = [steps[sha] for sha in _EVALSHA.findall(bytes(sent)) if sha in steps] if sent else []
        if not found:
            send(self, command, check_health)
            return
        passing(*(_redis_point(step, "unsent") for step in found))
        send(self, command, check_health)
        passing(*(_redis_point(step, "unanswered") for step in found))
        self.soak_unanswered = found

    def read_response(self: Any, *arguments: Any, **options: Any) -> Any:
        answer = read(self, *arguments, **options)
        waiting = getattr(self, "soak_unanswered", None)
        if waiting:
            passing(_redis_point(waiting.pop(0), "answered"))
        return answer

    kind.send_packed_command = send_packed_command  # type: ignore[method-assign]
    kind.read_response = read_response  # type: ignore[method-assign]


def _redis_point(step: str, moment: str) -> str:
    if step == "push" and here.role == "mover":
        step = "move"
    elif step == "push" and here.role == "sweeper":
        step = "heal"
    elif step == "push" and here.role == "submitter":
        return {"unsent": "submit.committed", "answered": "submit.pushed"}.get(moment, f"submit.{moment}")
    return f"{step}.{moment}"


# --- the database -----------------------------------------------------------------------------------------


def _wrap_transactions() -> None:
    @event.listens_for(Engine, "before_cursor_execute")
    def see(on: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        kind = _kind_of(statement)
        if kind == "submit":
            passing("submit.open")
        elif kind is not None and not (here.role == "mover" and on.info.get(_KINDS)):
            on.info.setdefault(_KINDS, set()).add(kind)  # a mover's transactions are named by how they begin

    @event.listens_for(Engine, "rollback")
    def forget(on: Connection) -> None:
        on.info.pop(_KINDS, None)

    commit = Connection._commit_impl

    def commit_impl(self: Connection) -> None:
        kinds = sorted(self.info.pop(_KINDS, ()))
        passing(*(f"{kind}.open" for kind in kinds))
        commit(self)
        passing(*(f"{kind}.committed" for kind in kinds))

    Connection._commit_impl = commit_impl  # type: ignore[method-assign]


class _Watched:
    """A cursor of the driver's that passes the crash points of a turn in one trip."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.kinds: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def execute(self, statement: str, given: Any = None) -> Any:
        if _kind_of(statement) == "submit":
            passing("submit.open")
        updates = [f"UPDATE tasks SET {part}" for part in statement.split("UPDATE tasks SET ")[1:]]
        self.kinds |= {kind for update in updates if (kind := _kind_of(update))}
        commits = statement == "COMMIT" or len(updates) > 1 or statement.endswith("; COMMIT")
        if commits:
            passing(*(f"{kind}.open" for kind in sorted(self.kinds)))
        return self._cursor.execute(statement) if given is None else self._cursor.execute(statement, given)


def _wrap_trips() -> None:
    direct = Database.direct

    def watched(self: Database, work: Any) -> Any:
        cursors: list[_Watched] = []

        def see(cursor: Any) -> Any:
            cursors.append(_Watched(cursor))
            return work(cursors[-1])

        answer = direct(self, see)
        passing(*(f"{kind}.committed" for kind in sorted(cursors[-1].kinds)))
        return answer

    Database.direct = watched  # type: ignore[method-assign]


def _kind_of(statement: str) -> str | None:
    """What a statement does for its transaction: claim, settle, heal, submit, or nothing of interest."""
    if here.role == "submitter":
        return "submit" if statement.lstrip().upper().startswith("INSERT INTO TASKS") else None
    if here.role == "mover":
        return _kind_of_move(statement)
    found = _UPDATE_TASKS.match(statement)
    if found is None:
        return None
    if here.role == "sweeper":
        return "heal"
    changes = found[1].partition("WHERE")[0]
    if "attempt" in changes:  # only a claim counts attempts
        return "claim"
    return "settle" if "status" in changes else None


def _kind_of_move(statement: str) -> str | None:
    found = (kind for start, kind in _MOVES if statement.lstrip().startswith(start))
    kind = next(found, None)
    return None if kind == "finish" and "ended_at" not in statement else kind


# --- roles ------------------------------------------------------------------------------------------------


def _tell_roles_apart() -> None:
    run = workers.sweeping.SweeperLoop.run

    def run_as_sweeper(self: Any) -> None:
        here.role = "sweeper"
        run(self)

    workers.sweeping.SweeperLoop.run = run_as_sweeper  # type: ignore[method-assign]

    work = Pool._work

    def work_in_a_role(self: Any, track: Track, mark: str) -> int:
        here.role = "poller" if track is Track.DATABASE else "worker"
        return work(self, track, mark)

    Pool._work = work_in_a_role  # type: ignore[method-assign]
