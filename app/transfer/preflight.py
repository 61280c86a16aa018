"""What must be right before a move: each check says what it saw, and how to put it right.

Changes nothing. A check that cannot look says so; that is no pass.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import redis
from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from app.system import System
from app.tasks.errors import TaskError
from app.tasks.migrate import pending
from app.tasks.model import PRIORITIES
from app.tasks.routing import Intake
from app.tasks.schema import metadata

MOST_CLOCK_SECONDS = 2.0
LEAST_FREE_BYTES = 1 << 30
LEAST_MEMORY_SHARE = 0.2
OLDEST = {"MySQL": (8, 0), "MariaDB": (10, 6), "PostgreSQL": (12,), "SQLite": (3, 35), "Redis": (7, 0)}


class Grade(StrEnum):
    """PASS, or what keeps a move from being safe: WARN may be accepted, FAIL not, UNREAD is not known."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Check:
    """One answer. `fix` says what to do; empty where nothing is to be done."""

    name: str
    grade: Grade
    said: str
    fix: str = ""


def preflight(system: System) -> list[Check]:
    """Every check, in a fixed order."""
    parts: list[Callable[[System], Iterator[Check]]] = [_database, _tables, _clocks, _disk, _settings]
    parts += [_redis, _redis_memory] if system.tickets is not None else []
    parts += [_workers, _intake]
    checks: list[Check] = []
    for part in parts:
        name = part.__name__.strip("_").replace("_", " ")
        try:
            checks += part(system)
        except (TaskError, SQLAlchemyError, redis.RedisError, OSError) as error:
            fix = "see that the server runs and that its address is right: make list-config"
            checks.append(Check(name, Grade.UNREAD, f"could not be read: {type(error).__name__}", fix))
    return checks


def exit_code(checks: list[Check]) -> int:
    """0 all well (warnings included), 1 a check failed, 2 something could not be read."""
    grades = {check.grade for check in checks}
    if Grade.FAIL in grades:
        return 1
    return 2 if Grade.UNREAD in grades else 0


def version_of(words: str) -> tuple[int, ...]:
    """`10.11.6-MariaDB-log` as (10, 11, 6)."""
    numbers: list[int] = []
    for part in words.split("-")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def _judged(name: str, right: bool, said: str, fix: str, *, otherwise: Grade = Grade.FAIL) -> Check:
    return Check(name, Grade.PASS, said) if right else Check(name, otherwise, said, fix)


def _version(product: str, words: str) -> Check:
    oldest = OLDEST[product]
    needed = ".".join(map(str, oldest))
    fix = f"upgrade to {product} {needed} or newer"
    return _judged(f"{product} version", version_of(words) >= oldest, words, fix)


# --- the database -----------------------------------------------------------------------------------


def _database(system: System) -> Iterator[Check]:
    kind = system.store.database.kind
    words = _scalar(system, "SELECT sqlite_version()" if kind == "sqlite" else "SELECT version()")
    if kind == "sqlite":
        yield _version("SQLite", words)
        return
    if kind == "mysql":
        product = "MariaDB" if "mariadb" in words.lower() else "MySQL"
        yield _version(product, words)
        name = "tx_isolation" if product == "MariaDB" else "transaction_isolation"
        yield _isolation(_scalar(system, f"SELECT @@SESSION.{name}"))
    else:
        yield _version("PostgreSQL", words.split()[1])
        yield _isolation(_scalar(system, "SHOW transaction_isolation"))
        encoding = _scalar(system, "SHOW server_encoding")
        yield _judged("encoding", encoding == "UTF8", encoding, "restore into a database with encoding UTF8")
    skipping = text("SELECT id FROM tasks WHERE id < 0 FOR UPDATE SKIP LOCKED")
    system.store.database.run(lambda on: on.execute(skipping).all())
    yield Check("SKIP LOCKED", Grade.PASS, "understood")


def _isolation(words: str) -> Check:
    level = words.replace("-", " ").upper()
    fix = "claims want READ COMMITTED: leave the isolation to us, and out of the URL"
    return _judged("isolation", level == "READ COMMITTED", level, fix, otherwise=Grade.WARN)


def _tables(system: System) -> Iterator[Check]:
    start = "start the web app or the workers of this version once"
    behind = pending(system.store.database)
    yield _judged("tables up to date", not behind, f"{len(behind)} changes are not applied", start)
    if behind:
        return
    present = set(system.store.database.read(lambda on: inspect(on).get_table_names()))
    missing = sorted({table.name for table in metadata.sorted_tables} - present)
    yield _judged("tables", not missing, f"missing: {', '.join(missing) or 'none'}", "restore a backup")
    rules = system.store.routing.refresh()
    yield _judged("routing", len(rules) == len(PRIORITIES), f"{len(rules)} rows of 4", start)


def _clocks(system: System) -> Iterator[Check]:
    before = time.time()
    database = system.store.database.now().timestamp()
    yield _clock("database", abs(database - (before + time.time()) / 2))
    if system.tickets is not None:
        before = time.time()
        seconds, micro = _client(system).time()
        yield _clock("Redis", abs(seconds + micro / 1e6 - (before + time.time()) / 2))


def _clock(whose: str, apart: float) -> Check:
    said = f"{apart:.3f} s from this machine's"
    fix = f"let the machine of {whose} and this one keep time by NTP"
    return _judged(f"clock of {whose}", apart <= MOST_CLOCK_SECONDS, said, fix, otherwise=Grade.WARN)


def _disk(system: System) -> Iterator[Check]:
    folder = system.config.VAR_DIR
    place = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    fix = "make room: a backup and a baseline of every row go there"
    yield _judged("free disk", free >= LEAST_FREE_BYTES, f"{free / 1e9:.1f} GB beside {place.name}/", fix)


# --- Redis ------------------------------------------------------------------------------------------


def _client(system: System) -> Any:
    """For the checks that there are with Redis only."""
    assert system.tickets is not None
    return system.tickets.client


def _redis(system: System) -> Iterator[Check]:
    client = _client(system)
    yield _version("Redis", str(client.info("server")["redis_version"]))
    policy = str(client.info("memory").get("maxmemory_policy", "unknown"))
    fix = "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf: any other drops tickets"
    yield _judged("maxmemory-policy", policy == "noeviction", policy, fix)
    role = str(client.info("replication")["role"])
    yield _judged("role of Redis", role == "master", role, "RQ_REDIS_URL must name the master, or Sentinel")
    kept = bool(client.info("persistence").get("aof_enabled"))
    fix = "appendonly yes: without it a restart empties the queues, and the sweeper fills them again"
    said = "append-only file" if kept else "no append-only file"
    yield _judged("persistence of Redis", kept, said, fix, otherwise=Grade.WARN)


def _redis_memory(system: System) -> Iterator[Check]:
    memory = _client(system).info("memory")
    used, most = int(memory["used_memory"]), int(memory.get("maxmemory", 0))
    if not most:
        said, fix = f"{used / 1e6:.0f} MB used, no limit", "set maxmemory: half a megabyte per 1,000 tickets"
        yield Check("memory of Redis", Grade.WARN, said, fix)
        return
    free = 1 - used / most
    fix = "raise maxmemory, or lower RQ_TICKET_WINDOW"
    yield _judged(
        "memory of Redis", free >= LEAST_MEMORY_SHARE, f"{free:.0%} of {most / 1e6:.0f} MB free", fix
    )


# --- who works, and by which rules ------------------------------------------------------------------


def _settings(system: System) -> Iterator[Check]:
    config = system.config
    fix = "RQ_ENABLED=true, and RQ_HYBRID_MODE=true while both tracks run"
    yield _judged("mode", system.tickets is not None, config.mode, fix, otherwise=Grade.WARN)
    grace = config.RQ_TICKET_GRACE
    fix = "set at least a second: below it the sweeper pushes tickets that are on their way"
    yield _judged("RQ_TICKET_GRACE", grace >= 1, f"{grace:g} s", fix, otherwise=Grade.WARN)
    odd = config.production and config.DATABASE_URL.startswith("sqlite")
    fix = "SQLite has one writer at a time: use MariaDB or PostgreSQL"
    yield _judged("database of this tier", not odd, config.APP_ENV, fix, otherwise=Grade.WARN)


def _workers(system: System) -> Iterator[Check]:
    alive = system.store.registry.workers()
    needed = ["redis"] if system.tickets else []
    needed += ["database"] if system.config.pollers_enabled else []
    for track in needed:
        count = sum(row.track == track for row in alive)
        fix = "python scripts/start_workers.py"
        yield _judged(f"workers by {track}", count > 0, f"{count} alive", fix, otherwise=Grade.WARN)


def _intake(system: System) -> Iterator[Check]:
    for priority, route in system.store.routing.refresh().items():
        closed = [word for word in ("paused", "fallback") if getattr(route, word)]
        closed += [f"fenced off {route.fenced_track}"] if route.fenced_track else []
        closed += [f"intake {route.intake}"] if route.intake is not Intake.OPEN else []
        said = ", ".join(closed) or "open"
        fix = "resume it, if nobody wants it so"
        yield _judged(f"queue {priority}", not closed, said, fix, otherwise=Grade.WARN)


def _scalar(system: System, statement: str) -> str:
    return str(system.store.database.read(lambda on: on.execute(text(statement)).scalar()))
