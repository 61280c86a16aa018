"""The oracle: what was accepted, what the handlers say they did, and what the tables say happened.

It shares no code with the product and believes none of its counters. Ends are counted by a trigger, starts by
the handlers' own ledger, reasons for second starts by the recorded events.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from tests.soak.ledger import Ledger

ENDED = ("COMPLETED", "FAILED", "CANCELLED")
# Events that allow one more start. "returned unstarted" is none: what never started has its first start left.
REASONS = ("retry", "reclaim")
_TABLES = (
    "CREATE TABLE soak_ends (task_id BIGINT NOT NULL, was VARCHAR(12), status VARCHAR(12), attempt INTEGER)",
    "CREATE TABLE soak_effects (task_id BIGINT NOT NULL, attempt INTEGER NOT NULL)",
)
_INSERT = "INSERT INTO soak_ends (task_id, was, status, attempt)"
_NEW = "NEW.id, OLD.status, NEW.status, NEW.attempt"
_IS_END = "NEW.status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'QUARANTINED')"
_TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER soak_end AFTER UPDATE ON tasks WHEN {_IS_END} BEGIN {_INSERT} VALUES ({_NEW}); END",
    ),
    "mysql": (
        "CREATE TRIGGER soak_end AFTER UPDATE ON tasks FOR EACH ROW"
        f" {_INSERT} SELECT {_NEW} FROM DUAL WHERE {_IS_END}",
    ),
    "postgresql": (
        "CREATE FUNCTION soak_end() RETURNS trigger AS $$"
        f" BEGIN {_INSERT} VALUES ({_NEW}); RETURN NULL; END $$ LANGUAGE plpgsql",
        f"CREATE TRIGGER soak_end AFTER UPDATE ON tasks FOR EACH ROW WHEN ({_IS_END})"
        " EXECUTE FUNCTION soak_end()",
    ),
}
# How a task of each name may end. A cancel that was answered in time is judged beside these.
RIGHT_ENDS = {
    "soak.works": {"COMPLETED"},
    "soak.writes": {"COMPLETED"},
    "soak.fails_once": {"COMPLETED"},
    "soak.fails_later": {"COMPLETED"},
    "soak.fails": {"FAILED"},
    "soak.parks": {"COMPLETED"},
    "soak.hangs": {"FAILED"},
    "soak.eats": {"FAILED"},
    "soak.exits": {"FAILED"},
    "soak.segfaults": {"FAILED"},
}


@dataclass(slots=True)
class Verdict:
    """What is wrong, one sentence per case. All empty: every promise was kept."""

    lost: dict[int, str] = field(default_factory=dict)
    doubled: dict[int, str] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)

    def add(self, other: Verdict) -> None:
        self.lost |= other.lost
        self.doubled |= other.doubled
        self.wrong |= other.wrong


class Oracle:
    """Plain SQL over one installation's database."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.ledger = ledger
        self.kind = url.partition(":")[0].partition("+")[0]
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "pool_pre_ping": True}  # servers die
        if self.kind == "postgresql":
            options["connect_args"] = {"options": "-c timezone=UTC"}
        elif self.kind == "sqlite":
            options["connect_args"] = {"timeout": 30}
        self._engine = create_engine(url, **options)

    def install(self) -> None:
        """Make the trigger and the tables; the product's own tables are there already."""
        with self._engine.connect() as on:
            for statement in (*_TABLES, *_TRIGGERS[self.kind]):
                on.exec_driver_sql(statement)

    def close(self) -> None:
        self._engine.dispose()

    def select(self, query: str) -> list[Any]:
        with self._engine.connect() as on:
            return list(on.execute(text(query)))

    def rows(self, task_ids: Iterable[int]) -> dict[int, Any]:
        """The rows of these tasks by id."""
        columns = "id, name, status, attempt, failures, holder, result, cancel_requested"
        found = self._of_tasks(f"SELECT {columns} FROM tasks WHERE id IN", task_ids)
        return {row.id: row for row in found}

    def open_tasks(self, task_ids: Iterable[int]) -> list[Any]:
        """Those of the tasks that have not ended, and their states."""
        marks = ", ".join(f"'{status}'" for status in ENDED)
        query = (
            f"SELECT id, status, holder, attempt, epoch FROM tasks WHERE status NOT IN ({marks}) AND id IN"
        )
        return self._of_tasks(query, task_ids)

    def events(self, task_ids: Iterable[int]) -> dict[int, list[str]]:
        """The kinds of the recorded events by task, in order."""
        found: dict[int, list[str]] = defaultdict(list)
        query = "SELECT task_id, kind, id FROM task_events WHERE task_id IN"
        for row in sorted(self._of_tasks(query, task_ids), key=lambda row: int(row.id)):
            found[row.task_id].append(row.kind)
        return found

    def may_write(self) -> bool:
        """False while somebody holds the one write lock of SQLite."""
        if self.kind != "sqlite":
            return True
        try:
            with self._engine.connect() as on:
                on.exec_driver_sql("PRAGMA busy_timeout = 200")
                on.exec_driver_sql("BEGIN IMMEDIATE")
                on.exec_driver_sql("ROLLBACK")
        except OperationalError:
            return False
        return True

    def statuses(self) -> dict[str, int]:
        return {
            row[0]: int(row[1]) for row in self.select("SELECT status, COUNT(*) FROM tasks GROUP BY status")
        }

    def strangers(self, known: set[int]) -> dict[int, str]:
        """Rows that nobody was told of, with their names."""
        newest = max(known, default=0) - (1 << 40)  # ids grow with time: older rows are known
        found = self.select(f"SELECT id, name FROM tasks WHERE id > {newest}")
        return {row.id: row.name for row in found if row.id not in known}

    def judge(self, names: Mapping[int, str], *, cancelled: set[int]) -> Verdict:
        """Judge tasks by their names; `cancelled` are those for which a cancel was asked."""
        self.ledger.look()
        verdict = Verdict()
        rows, events = self.rows(names), self.events(names)
        ends, effects = self._counts("soak_ends", names), self._counts("soak_effects", names)
        for task_id, name in names.items():
            row = rows.get(task_id)
            if row is None:
                verdict.lost[task_id] = f"{name}: accepted, and no row is there"
                continue
            if row.status not in ENDED:
                verdict.lost[task_id] = f"{name}: {row.status}, holder {row.holder}, attempt {row.attempt}"
                continue
            if ends[task_id] != 1:
                verdict.doubled[task_id] = f"{name}: its end was recorded {ends[task_id]} times"
            self._judge_starts(row, events[task_id], verdict)
            self._judge_end(row, name, events[task_id], task_id in cancelled, effects[task_id], verdict)
        return verdict

    def _judge_starts(self, row: Any, events: Sequence[str], verdict: Verdict) -> None:
        starts = [line for line in self.ledger.of_task[row.id] if line.word == "S"]
        per_attempt = Counter(line.attempt for line in starts)
        twice = any(count > 1 for count in per_attempt.values())
        allowed = 1 + sum(kind in REASONS for kind in events)
        if twice or len(starts) > allowed:
            what = "one attempt started twice" if twice else f"{len(starts)} starts"
            verdict.doubled[row.id] = f"{row.name}: {what}, recorded reasons {events}; {self._story(row.id)}"

    def _story(self, task_id: int) -> str:
        """What is known of a task: its row, its lines in the ledger, its events."""
        row = self.select(f"SELECT * FROM tasks WHERE id = {int(task_id)}")[0]._mapping
        of_row = ", ".join(f"{name} {value}" for name, value in row.items() if value is not None)
        query = f"SELECT at, kind, detail FROM task_events WHERE task_id = {int(task_id)} ORDER BY id"
        events = "; ".join(f"{event.at} {event.kind} {event.detail}" for event in self.select(query))
        lines = " ".join(
            f"{line.word}{line.attempt} at {line.at:.3f} by {line.pid}"
            for line in self.ledger.of_task[task_id]
        )
        return f"ledger: {lines}; events: {events or 'none'}; row: {of_row}"

    def _judge_end(
        self, row: Any, name: str, events: Sequence[str], cancelled: bool, effects: int, verdict: Verdict
    ) -> None:
        right = RIGHT_ENDS[name] | ({"CANCELLED"} if cancelled else set())
        lines = self.ledger.of_task[row.id]
        if name == "soak.parks" and "failed" in events:
            right = right | {"FAILED"}  # started, and its worker died: for a person to decide
        if row.status not in right:
            verdict.wrong[row.id] = f"{name}: ended {row.status}, events {events}"
        if name == "soak.parks" and len({line.attempt for line in lines}) > 1:
            verdict.doubled[row.id] = f"{name}: ran again although its handler must not repeat"
        if row.status == "COMPLETED":
            result = json.loads(row.result)
            known = {(line.attempt, line.pid) for line in lines if line.word == "E"}
            if (result["attempt"], result["pid"]) not in known or result["attempt"] != row.attempt:
                verdict.wrong[row.id] = f"{name}: the result {result} is not its last attempt's"
        wanted = int(name == "soak.writes" and row.status == "COMPLETED")
        if effects != wanted and not (cancelled and name == "soak.writes"):
            verdict.doubled[row.id] = f"{name}: {effects} effects were committed with {row.status}"

    def _counts(self, table: str, task_ids: Iterable[int]) -> Counter[int]:
        found = self._of_tasks(f"SELECT task_id FROM {table} WHERE task_id IN", task_ids)
        return Counter(row.task_id for row in found)

    def _of_tasks(self, query: str, task_ids: Iterable[int]) -> list[Any]:
        ids = list(task_ids)
        rows: list[Any] = []
        for start in range(0, len(ids), 500):
            rows += self.select(f"{query} ({', '.join(map(str, ids[start : start + 500]))})")
        return rows
