"""Text for statements that go to the driver as they are: the few of the hot path.

Their lists of ids differ in length each time, and SQLAlchemy would compile each anew; its rows and types
would cost more than the database. Values always travel as parameters: only marks and our own words are text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ClauseElement, false, literal, not_, true

from app.tasks.database import Database
from app.tasks.model import Status
from app.tasks.schema import database_now, status_is, tasks


class DriverSql:
    """The dialect of one database, as text."""

    def __init__(self, database: Database) -> None:
        self.kind = database.kind
        self._dialect = database.engine.dialect
        self.mark = "?" if database.kind == "sqlite" else "%s"
        self.now = self.text(database_now())
        self.false = self.text(false())
        self.true = self.text(true())
        self.not_cancelled = self.text(not_(tasks.c.cancel_requested))
        self.later = lru_cache(maxsize=8)(self._later)

    def marks(self, count: int) -> str:
        """A list of marks for `IN (…)`."""
        return ", ".join([self.mark] * count)

    def status_is(self, status: Status) -> str:
        """`schema.status_is`, for beside a list of ids."""
        return self.text(status_is(status))

    def moment(self, when: datetime) -> str:
        """An aware time as text that this database reads as UTC, with six digits of a second."""
        text = when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return f"{text}+00" if self.kind == "postgresql" else text

    def text(self, clause: ClauseElement) -> str:
        """A clause without parameters, as this database spells it."""
        compiled: Any = clause.compile(dialect=self._dialect, compile_kwargs={"literal_binds": True})
        return str(compiled)

    def _later(self, seconds: float) -> str:
        """The database's clock, plus `seconds`."""
        return self.text(database_now(literal(seconds)))


def array_text(values: Sequence[Any]) -> str:
    """A PostgreSQL array of numbers, words or nothing, as its text: the driver takes ten times as long."""
    if all(isinstance(value, int) for value in values):
        return "{" + ",".join(map(str, values)) + "}"
    return "{" + ",".join(map(_element_text, values)) + "}"


def _element_text(value: Any) -> str:
    if value is None:
        return "NULL"
    text = str(value)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
