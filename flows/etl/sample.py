"""A source for the ETL: some small tables that look like a shop's, always the same."""

from __future__ import annotations

from datetime import datetime, timedelta

from app.distributed import DatabaseManager

TABLES = 20
ROWS = 200
FIRST_DAY = datetime(2026, 1, 1)  # noqa: DTZ001


def make_sample(source: DatabaseManager, *, tables: int = TABLES, rows: int = ROWS) -> list[str]:
    """Make the tables `shop_01` and on, in place of those that are there. Returns their names."""
    names = [f"shop_{number:02d}" for number in range(1, tables + 1)]
    for number, name in enumerate(names):
        insertion = f"INSERT INTO {name} VALUES (:id, :customer, :amount, :paid_at, :note)"  # noqa: S608
        source.execute_transaction(
            [
                f"DROP TABLE IF EXISTS {name}",
                f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, customer VARCHAR(80) NOT NULL,"
                " amount NUMERIC(12, 2) NOT NULL, paid_at TIMESTAMP NULL, note TEXT)",
                (insertion, [_row(number * rows + one) for one in range(rows)]),
            ]
        )
    return names


def _row(number: int) -> dict[str, object]:
    paid_at = FIRST_DAY + timedelta(hours=number)
    return {
        "id": number,
        "customer": f"  Customer {number % 37} ",
        "amount": f"{number % 900 + number % 100 / 100:.2f}",
        "paid_at": None if number % 5 == 0 else f"{paid_at:%Y-%m-%d %H:%M:%S}.000000",
        "note": "" if number % 3 else f"parcel {number}",
    }
