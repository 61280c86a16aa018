"""Rules that hold for the tables at every moment, each as one query for the rows that break it.

Reads only. A live system passes through states that last milliseconds, so what breaks a rule is asked for
again after a while, and only what still breaks it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from app.tasks.database import Database

NAMED = 1_000
SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """`query` selects the keys of what breaks the rule; `meaning` is the sentence that is broken."""

    name: str
    meaning: str
    query: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Broken:
    """Keys that break a rule; of many the first. `more`: there are others."""

    rule: Rule
    keys: tuple[str, ...]
    more: bool = False


def task_rules(handlers: Iterable[str]) -> list[Rule]:
    """What each row of `tasks` must be by itself."""
    names = sorted(handlers)
    known = {f"name_{number}": name for number, name in enumerate(names)}
    marks = ", ".join(f":{mark}" for mark in known)
    live = "status IN ('SCHEDULED', 'QUEUED', 'DISPATCHED', 'PROCESSING')"
    return [
        Rule(
            "known task name",
            "every live task has a handler",
            _tasks(f"{live} AND name NOT IN ({marks})"),
            known,
        ),
        _task("claim", "a running task has a token, a holder and a lease",
              "status = 'PROCESSING' AND (token IS NULL OR holder IS NULL OR lease_until IS NULL)"),
        _task("no claim", "only a running task has a token or a lease",
              "status <> 'PROCESSING' AND (token IS NOT NULL OR lease_until IS NOT NULL)"),
        _task("end", "an ended task says when it ended",
              "status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND ended_at IS NULL"),
        _task("no end", "a live task has not ended", f"{live} AND ended_at IS NOT NULL"),
        _task("wait", "a waiting task says since when",
              "status IN ('QUEUED', 'DISPATCHED') AND waiting_since IS NULL"),
        _task("scheduled", "a scheduled task has a time, a hold, or waits for its user, children or a place",
              "status = 'SCHEDULED' AND run_at IS NULL AND held = false"
              " AND id NOT IN (SELECT task_id FROM user_waits)"
              " AND id NOT IN (SELECT task_id FROM slot_waits)"
              " AND id NOT IN (SELECT task_id FROM parents WHERE waits = true)"
              " AND id NOT IN (SELECT task_id FROM children WHERE admitted = false)"),
        _task("time", "only a scheduled task has a time to run at",
              "status <> 'SCHEDULED' AND run_at IS NOT NULL"),
        _task("confirmed", "only a task that waits in Redis has a ticket that was seen",
              "status NOT IN ('DISPATCHED', 'PROCESSING') AND confirmed_in <> 0"),
        _task("error", "a failed task says why", "status = 'FAILED' AND (error IS NULL OR error = '')"),
        _task("result", "only a completed task has a result", "status <> 'COMPLETED' AND result IS NOT NULL"),
        _task("numbers", "epoch, attempts, failures, limits and progress are in their ranges",
              "epoch < 1 OR attempt < 0 OR failures < 0 OR max_retries < 0 OR timeout_seconds < 1"
              " OR progress_percent NOT BETWEEN 0 AND 100"),
        _task("failures", "a task has not failed more often than it was claimed", "failures > attempt"),
        _task("payload", "a payload is not empty", "payload = ''"),
    ]  # fmt: skip


def consistency_rules() -> list[Rule]:
    """What the tables must say of each other."""
    return [
        Rule(
            "routing",
            "each of the four priorities has its routing row",
            "SELECT p.rank_of FROM (SELECT 0 AS rank_of UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL"
            " SELECT 3) p LEFT JOIN routing r ON r.priority = p.rank_of WHERE r.priority IS NULL",
        ),
        Rule(
            "events",
            "every event belongs to a task that exists",
            "SELECT DISTINCT e.task_id FROM task_events e LEFT JOIN tasks t ON t.id = e.task_id"
            " WHERE t.id IS NULL",
        ),
        Rule(
            "user waits",
            "who waits for its user is a scheduled task of that user",
            "SELECT w.task_id FROM user_waits w LEFT JOIN tasks t ON t.id = w.task_id"
            " WHERE t.id IS NULL OR t.status <> 'SCHEDULED' OR t.user_id IS NULL OR t.user_id <> w.user_id",
        ),
        Rule(
            "track",
            "no task waits on a track that its routing gives nothing to, unless a transfer is under way",
            "SELECT t.id FROM tasks t JOIN routing r ON r.priority = t.priority"
            " WHERE r.transfer_id IS NULL AND ((t.status = 'DISPATCHED' AND (r.fallback = true"
            " OR (r.redis_percent = 0 AND r.name_percents = '{}'))) OR (t.status = 'QUEUED'"
            " AND r.fallback = false AND r.redis_percent = 100 AND r.name_percents = '{}'))",
        ),
        Rule(
            "schedules",
            "an active schedule, and no other, has a next time",
            "SELECT name FROM schedules WHERE (state = 'active') <> (next_run_at IS NOT NULL)",
        ),
    ]


def user_rules(*, active_limit: int, concurrency: int) -> list[Rule]:
    """What holds of users. A limit of 0 is none. Test tasks count for nobody."""
    live = "status IN ('SCHEDULED', 'QUEUED', 'DISPATCHED', 'PROCESSING')"
    no_test = "user_id IS NOT NULL AND name NOT LIKE 'test.%'"
    rules = [
        _task("slot kept", "an ended task holds no slot of its user",
              "status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND active_key IS NOT NULL"),
        _task("slot of somebody", "a slot belongs to a task with a user",
              "active_key IS NOT NULL AND user_id IS NULL"),
    ]  # fmt: skip
    if active_limit:
        in_line = "id NOT IN (SELECT task_id FROM slot_waits)"
        too_many = f"SELECT user_id FROM tasks WHERE {live} AND {no_test} AND {in_line}"  # noqa: S608
        meaning = f"no user has more than {active_limit} active tasks"
        rules.append(_users("active tasks", meaning, too_many, active_limit))
    if concurrency:
        running = "SELECT user_id FROM tasks WHERE status = 'PROCESSING' AND user_id IS NOT NULL"
        meaning = f"no user has more than {concurrency} tasks running"
        rules.append(_users("running tasks", meaning, running, concurrency))
    return rules


def _task(name: str, meaning: str, broken: str) -> Rule:
    return Rule(name, meaning, _tasks(broken))


def _tasks(broken: str) -> str:
    return f"SELECT id FROM tasks WHERE {broken}"  # noqa: S608 - our own words


def _users(name: str, meaning: str, query: str, limit: int) -> Rule:
    return Rule(name, meaning, f"{query} GROUP BY user_id HAVING COUNT(*) > :most", {"most": limit})


def broken_rules(
    database: Database,
    rules: Sequence[Rule],
    *,
    settle_seconds: float = SETTLE_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> list[Broken]:
    """The rules that are broken now and still after `settle_seconds`, by the same keys.

    Raises `DatabaseUnavailable`, `StatementRefused`.
    """
    first = {rule.name: _breaking(database, rule) for rule in rules}
    suspects = [rule for rule in rules if first[rule.name]]
    if not suspects:
        return []
    pause(settle_seconds)
    found = []
    for rule in suspects:
        again, before = _breaking(database, rule), set(first[rule.name])
        keys = tuple(key for key in again if key in before)
        # of more than can be named, other ones may come first at the second look
        if keys or (len(again) > NAMED and len(before) > NAMED):
            found.append(Broken(rule, keys[:NAMED], more=len(again) > NAMED))
    return found


def _breaking(database: Database, rule: Rule) -> list[str]:
    query = text(f"{rule.query} LIMIT {NAMED + 1}")
    return database.read(lambda on: [str(row[0]) for row in on.execute(query, rule.values)])
