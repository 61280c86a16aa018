"""What must not change of a row, and what a ticket must say of it, as digests.

Each digest is spelled twice: here in Python, and as SQL of each database, so that a database can compute
them where the rows are. MD5, because all of them have it or can be taught it: this finds accidents, and is
no guard against somebody who wants two rows to look alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

# Hexadecimal digits that count in a sum: ten thousands of such numbers add up within 63 bits.
SUMMED_DIGITS = 12
# What a digest is made of: nothing that a run of the task, a move or a heal may touch.
KEPT = (
    *("id", "priority", "max_retries", "timeout_seconds", "created_at", "name"),
    *("user_id", "idempotency_key", "payload"),
)


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """The seconds a task may run, as rules: its own limit, else its name's, its priority's, the default."""

    default: int
    of_name: Mapping[str, int] = field(default_factory=dict)
    of_rank: Mapping[int, int] = field(default_factory=dict)

    def of(self, name: str, rank: int, own: int | None) -> int:
        return own or self.of_name.get(name) or self.of_rank.get(rank) or self.default


def md5(text: str) -> str:
    """32 hexadecimal digits of the text's UTF-8 bytes."""
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def summed(digest: str) -> int:
    """The part of a digest that is added up, to compare many rows by one number."""
    return int(digest[:SUMMED_DIGITS], 16)


def row_digest(row: Mapping[str, Any]) -> str:
    """The digest of a row's `KEPT` columns. `priority` is the rank, `created_at` a time or its text."""
    return digest_of_kept([row[column] for column in KEPT])


def digest_of_kept(values: Sequence[Any]) -> str:
    """`row_digest` of the values of the `KEPT` columns, in their order."""
    task_id, rank, max_retries, timeout_seconds, created_at, name, user_id, key, payload = values
    return md5(
        f"{task_id},{rank},{'-' if max_retries is None else max_retries},"
        f"{'-' if timeout_seconds is None else timeout_seconds},{time_text(created_at)},"
        f"{_sized(name)},{_sized(user_id)},{_sized(key)},{md5(payload)}"
    )


def ticket_digest(task_id: int, epoch: int, rank: int, timeout_seconds: int | str) -> int:
    """What a ticket must say of its row, as a number to add up."""
    return summed(md5(f"{task_id},{epoch},{rank},{timeout_seconds}"))


def time_text(moment: datetime | str) -> str:
    """A time as SQL spells it here: UTC, six digits of a second, no zone."""
    if isinstance(moment, str):
        return moment
    utc = moment.astimezone(UTC) if moment.tzinfo else moment
    return utc.strftime("%Y-%m-%d %H:%M:%S.%f")


def _sized(word: str | None) -> str:
    """Told apart from its neighbours by its length, and an empty word from none."""
    return "-" if word is None else f"{len(word.encode('utf-8', 'surrogatepass'))}:{word}"


class DigestSql:
    """The same digests, as SQL of one kind of database (`mysql`, `postgresql` or `sqlite`)."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def prepare(self, on: Connection) -> None:
        """Teach SQLite the functions that the others have."""
        if self.kind == "sqlite":
            driver: Any = on.connection.driver_connection
            driver.create_function("md5", 1, md5, deterministic=True)
            driver.create_function("summed", 1, summed, deterministic=True)

    def time(self, column: str) -> str:
        """A time column as `time_text` spells it."""
        if self.kind == "mysql":
            return f"CAST({column} AS CHAR)"
        if self.kind == "postgresql":
            return f"to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
        return column

    def row(self) -> str:
        """`row_digest` of a row of `tasks`."""
        numbers = (self._or_dash(name) for name in ("max_retries", "timeout_seconds"))
        words = (self._sized(name) for name in ("name", "user_id", "idempotency_key"))
        parts = ("id", "priority", *numbers, self.time("created_at"), *words, "md5(payload)")
        return f"md5({self._joined(*parts)})"

    def ticket(self, timeout: str) -> str:
        """`ticket_digest` of a row; `timeout` is an SQL expression."""
        return self.summed(f"md5({self._joined('id', 'epoch', 'priority', timeout)})")

    def summed(self, digest: str) -> str:
        if self.kind == "mysql":
            return f"CAST(CONV(LEFT({digest}, {SUMMED_DIGITS}), 16, 10) AS UNSIGNED)"
        if self.kind == "postgresql":
            return f"('x' || left({digest}, {SUMMED_DIGITS}))::bit({4 * SUMMED_DIGITS})::bigint"
        return f"summed({digest})"

    def time_limit(self, limits: TimeLimits) -> tuple[str, dict[str, Any]]:
        """`TimeLimits.of` a row, as SQL with its parameters."""
        values: dict[str, Any] = {"default_limit": limits.default}
        choices = ["NULLIF(timeout_seconds, 0)"]
        for column, rules in (("name", limits.of_name), ("priority", limits.of_rank)):
            whens = []
            for number, (key, seconds) in enumerate(sorted(rules.items())):
                values |= {f"{column}_{number}": key}
                whens.append(f"WHEN :{column}_{number} THEN {int(seconds)}")
            if whens:
                choices.append(f"CASE {column} {' '.join(whens)} END")
        return f"COALESCE({', '.join(choices)}, :default_limit)", values

    def _joined(self, *parts: str) -> str:
        if self.kind == "sqlite":
            return " || ',' || ".join(f"({part})" for part in parts)
        return f"concat_ws(',', {', '.join(parts)})"

    def _or_dash(self, column: str) -> str:
        as_text = f"CAST({column} AS {'CHAR' if self.kind == 'mysql' else 'TEXT'})"
        return f"COALESCE({as_text}, '-')"

    def _sized(self, column: str) -> str:
        if self.kind == "mysql":
            return f"COALESCE(CONCAT(OCTET_LENGTH({column}), ':', {column}), '-')"
        if self.kind == "postgresql":
            return f"COALESCE(octet_length({column}) || ':' || {column}, '-')"
        return f"COALESCE(length(CAST({column} AS BLOB)) || ':' || {column}, '-')"
