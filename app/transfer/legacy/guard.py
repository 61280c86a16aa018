"""The guard: a trigger on the legacy table that refuses what a late old worker would do.

An old worker that selects and then updates may have read a row before its move, and update it after, even
after its task has ended: `UPDATE … SET status = 'RUNNING' WHERE id = …` asks nothing. The guard lets nobody
but us change the status of a moved row, and nobody start a row that has ended. The worker gets an error, and
so does not run the row. Everything else passes, an administrator's new start of a failed row too.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.transfer.errors import NotPossible
from app.transfer.legacy.mapping import Mapping

SAYS = "this row was moved to another queue, or has ended there"
_BLANKS = re.compile(r"\s+")


class Guard:
    """The guard of one table, on one database."""

    def __init__(self, database: Database, mapping: Mapping) -> None:
        self._database = database
        self._mapping = mapping
        self._quote = database.engine.dialect.identifier_preparer.quote
        self.name = f"twintrack_guard_{mapping.table}"[:63]
        self._spelt = self._quote(self.name)

    def statements(self) -> list[str]:
        """What installs it, in place of an older one."""
        return {"mysql": self._for_mysql, "postgresql": self._for_postgresql, "sqlite": self._for_sqlite}[
            self._database.kind
        ]()

    def install(self) -> None:
        """Raises `NotPossible` if it is not there afterwards, and as the database refuses its statements."""

        def work(on: Connection) -> None:
            for statement in self.statements():
                on.execute(text(statement.replace(":", "\\:")))

        self._database.run(work)
        if not self.is_installed():
            raise NotPossible(f"the guard {self.name} was made, and is not there: something removes it")

    def is_installed(self) -> bool:
        """True if the guard is there, does what it does today, and is not switched off."""
        query, wanted = {
            "mysql": (_MYSQL, self._body_of_mysql()),
            "postgresql": (_POSTGRESQL, self._body_of_postgresql()),
            "sqlite": (_SQLITE, self._for_sqlite()[-1]),
        }[self._database.kind]
        names = {"name": self.name, "table": self._mapping.table}
        found = self._database.read(lambda on: on.execute(text(query), names).scalar())
        return found is not None and _plain(found) == _plain(wanted)

    # --- the condition ----------------------------------------------------------------------------------

    def _refused(self, differs: str) -> str:
        words = self._mapping.status
        status = self._quote(words.column)
        ended = ", ".join(_word(word) for word in self._ended())
        return (
            f"{differs} AND (OLD.{status} = {_word(words.moved)}"
            f" OR (OLD.{status} IN ({ended}) AND NEW.{status} = {_word(words.running)}))"
        )

    def _ended(self) -> list[str]:
        words = self._mapping.status
        return list(dict.fromkeys((words.done, words.failed, words.cancelled or words.failed)))

    # --- each database's spelling -------------------------------------------------------------------------

    def _for_mysql(self) -> list[str]:
        table = self._quote(self._mapping.table)
        return [
            f"DROP TRIGGER IF EXISTS {self._spelt}",
            f"CREATE TRIGGER {self._spelt} BEFORE UPDATE ON {table} FOR EACH ROW {self._body_of_mysql()}",
        ]

    def _body_of_mysql(self) -> str:
        status = self._quote(self._mapping.status.column)
        refused = self._refused(f"NOT (NEW.{status} <=> OLD.{status})")
        return (
            f"IF @twintrack_writes IS NULL AND {refused} THEN"
            f" SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = {_word(SAYS)}; END IF"
        )

    def _for_postgresql(self) -> list[str]:
        table = self._quote(self._mapping.table)
        return [
            f"CREATE OR REPLACE FUNCTION {self._spelt}() RETURNS trigger LANGUAGE plpgsql AS $guard$"
            f"{self._body_of_postgresql()}$guard$",
            f"DROP TRIGGER IF EXISTS {self._spelt} ON {table}",
            f"CREATE TRIGGER {self._spelt} BEFORE UPDATE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION {self._spelt}()",
        ]

    def _body_of_postgresql(self) -> str:
        status = self._quote(self._mapping.status.column)
        refused = self._refused(f"NEW.{status} IS DISTINCT FROM OLD.{status}")
        return (
            f"BEGIN IF COALESCE(current_setting('twintrack.writes', true), '') <> 'on' AND {refused} THEN"
            f" RAISE EXCEPTION {_word(SAYS)}; END IF; RETURN NEW; END"
        )

    def _for_sqlite(self) -> list[str]:
        table, status = self._quote(self._mapping.table), self._quote(self._mapping.status.column)
        refused = self._refused(f"NEW.{status} IS NOT OLD.{status}")
        source = _word(self._mapping.name)
        ours = f"EXISTS (SELECT 1 FROM legacy_sources WHERE name = {source} AND writing = 1)"  # noqa: S608
        return [
            f"DROP TRIGGER IF EXISTS {self._spelt}",
            f"CREATE TRIGGER {self._spelt} BEFORE UPDATE ON {table} FOR EACH ROW"
            f" WHEN {refused} AND NOT {ours} BEGIN SELECT RAISE(ABORT, {_word(SAYS)}); END",
        ]


def prepare_passes(database: Database, mapping: Mapping) -> None:
    """Make what lets our statements pass a guard in a database that is not ours: on SQLite, where the mark of
    who writes is a row, a table for it."""
    if database.kind != "sqlite":
        return
    columns = "name TEXT PRIMARY KEY, writing BOOLEAN NOT NULL DEFAULT 0"

    def work(on: Connection) -> None:
        on.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS legacy_sources ({columns})")
        on.exec_driver_sql("INSERT OR IGNORE INTO legacy_sources (name) VALUES (?)", (mapping.name,))

    database.run(work)


_MYSQL = (
    "SELECT action_statement FROM information_schema.triggers WHERE trigger_schema = DATABASE()"
    " AND trigger_name = :name AND event_object_table = :table AND action_timing = 'BEFORE'"
    " AND event_manipulation = 'UPDATE'"
)
_POSTGRESQL = (
    "SELECT p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
    " WHERE t.tgname = :name AND t.tgrelid = to_regclass(quote_ident(:table)) AND t.tgenabled IN ('O', 'A')"
)
_SQLITE = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name AND tbl_name = :table"


def _plain(statement: Any) -> str:
    return _BLANKS.sub(" ", str(statement)).strip().rstrip(";")


def _word(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "''") + "'"
