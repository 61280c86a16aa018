"""Legacy queues as another application would have made them: built, filled and read with plain SQL."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

STATUSES = "'QUEUED','RUNNING','COMPLETED','FAILED','CANCELLED'"
FIRST = datetime(2026, 3, 1, 8, 0, 0)  # noqa: DTZ001 - such tables have no zones
NEWER = {
    "priority": {"mysql": "ENUM('low','normal','high','urgent')", "other": "VARCHAR(10)"},
    **{
        name: {"mysql": kind, "other": kind}
        for name, kind in (("admin_notes", "TEXT"), ("retry_count", "INT"))
    },
    "max_retries": {"mysql": "INT", "other": "INT"},
}


class CaptionQueue:
    """`caption_generation_tasks`, users and connections: 12 columns, or with those that came later."""

    table = "caption_generation_tasks"

    def __init__(self, engine: Engine, *, old_shape: bool = False) -> None:
        self.engine = engine
        self.kind = "mysql" if engine.dialect.name == "mariadb" else engine.dialect.name
        self.old_shape = old_shape
        self.drop()
        for statement in self._definitions():
            self.execute(statement)
        self.execute(
            "INSERT INTO users (id, username, is_active) VALUES (1,'ann',:yes),(2,'bob',:yes)", yes=True
        )
        self.execute("INSERT INTO users (id, username, is_active) VALUES (3,'gone',:no)", no=False)
        self.execute(
            "INSERT INTO platform_connections (id, user_id, is_active)"
            " VALUES (1,1,:yes),(2,2,:yes),(3,3,:yes)", yes=True
        )  # fmt: skip

    def _definitions(self) -> list[str]:
        mysql = self.kind == "mysql"
        end = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci" if mysql else ""
        status = f"ENUM({STATUSES})" if mysql else "VARCHAR(12)"
        moment = "TIMESTAMP" if self.kind == "postgresql" else "DATETIME"
        newer = "".join(
            f", {name} {kinds['mysql' if mysql else 'other']}"
            for name, kinds in ({} if self.old_shape else NEWER).items()
        )
        indexes = ["user_id, status", "platform_connection_id, status"]  # what the foreign keys need
        indexes += [] if self.old_shape else ["status, created_at", "priority"]
        return [
            f"CREATE TABLE users (id INT PRIMARY KEY, username VARCHAR(64) NOT NULL, is_active BOOLEAN){end}",
            "CREATE TABLE platform_connections (id INT PRIMARY KEY, user_id INT NOT NULL, is_active BOOLEAN)"
            + end,
            f"CREATE TABLE {self.table} (id VARCHAR(36) PRIMARY KEY, user_id INT NOT NULL,"
            f" platform_connection_id INT NOT NULL, status {status}, settings_json TEXT, created_at {moment},"
            f" started_at {moment}, completed_at {moment}, error_message TEXT, results_json TEXT,"
            f" progress_percent INT, current_step VARCHAR(200){newer}){end}",
            *(
                f"CREATE INDEX ix_legacy_{number} ON {self.table} ({columns})"
                for number, columns in enumerate(indexes)
            ),
        ]

    def with_foreign_keys(self) -> None:
        """Existing orphans stay, as they do where keys were switched off for a while (MariaDB)."""
        for number, (column, parent) in enumerate(
            (("user_id", "users"), ("platform_connection_id", "platform_connections"))
        ):
            with self.engine.connect() as on:
                on.execute(text("SET foreign_key_checks = 0"))
                on.execute(
                    text(
                        f"ALTER TABLE {self.table} ADD CONSTRAINT fk_legacy_{number} FOREIGN KEY ({column})"
                        f" REFERENCES {parent} (id) ON DELETE CASCADE"
                    )
                )
                on.execute(text("SET foreign_key_checks = 1"))

    def drop(self) -> None:
        for table in (self.table, "platform_connections", "users"):
            self.execute(f"DROP TABLE IF EXISTS {table}")
        if self.kind == "postgresql":
            self.execute(f"DROP FUNCTION IF EXISTS twintrack_guard_{self.table}()")
        self.engine.dispose()  # PostgreSQL's prepared statements would remember the columns

    def execute(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.begin() as on:
            result = on.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    # --- rows -----------------------------------------------------------------------------------------

    def row(self, number: int, **changes: Any) -> dict[str, Any]:
        """A row as the application writes it; `changes` make a fault of it."""
        row: dict[str, Any] = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
            "user_id": 1 + number % 2,
            "platform_connection_id": 1 + number % 2,
            "status": "QUEUED",
            "settings_json": '{"max_posts_per_run": 10, "reprocess_existing": 0}',
            "created_at": FIRST + timedelta(seconds=number // 3),  # three rows a second: no order but the key
            "progress_percent": 0,
        }
        if not self.old_shape:
            row |= {"priority": "normal", "retry_count": 0, "max_retries": 3}
        return row | changes

    def put(self, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        """Insert rows. Returns their keys."""
        made = [dict(row) for row in rows]
        names = list(dict.fromkeys(name for row in made for name in row))
        made = [dict.fromkeys(names) | row for row in made]
        statement = text(
            f"INSERT INTO {self.table} ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"
        )
        with self.engine.begin() as on:
            for at in range(0, len(made), 5000):
                on.execute(statement, made[at : at + 5000])
        return [row["id"] for row in made]

    def all(self) -> dict[str, dict[str, Any]]:
        return {row.id: dict(row._mapping) for row in self.execute(f"SELECT * FROM {self.table}")}

    def status(self, key: str) -> Any:
        return self.execute(f"SELECT status FROM {self.table} WHERE id = :key", key=key)[0][0]

    def set(self, key: str, **columns: Any) -> int:
        """A blind update, as an old worker makes it. Returns how many rows it changed."""
        settings = ", ".join(f"{name} = :{name}" for name in columns)
        with self.engine.begin() as on:
            statement = text(f"UPDATE {self.table} SET {settings} WHERE id = :key")
            return int(on.execute(statement, columns | {"key": key}).rowcount)
