"""The database object before it connects: which URLs it takes, and what it says about others."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from app.tasks.database import Database, is_deadlock


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("sqlite:///x.db", "sqlite"),
        ("mysql+pymysql://u:p@localhost/x", "mysql"),
        ("mariadb+pymysql://u:p@db.example/x?ssl_ca=ca.pem", "mysql"),
        ("postgresql+psycopg://u:p@localhost/x", "postgresql"),
    ],
)
def test_a_url_names_its_kind_without_a_connection(url: str, kind: str) -> None:
    database = Database(url)
    assert database.kind == kind
    database.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a url",
        "redis://localhost",
        "oracle://u:secret@localhost/x",
        "mysql+nodriver://u:secret@h/x",
        "mysql://u:secret@h/x",
    ],
)
def test_a_url_that_cannot_work_is_refused_with_a_sentence_and_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL") as refused:
        Database(url)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


class Said(Exception):
    """What a driver raises."""

    def __init__(self, *arguments: object, sqlstate: str | None = None) -> None:
        super().__init__(*arguments)
        if sqlstate is not None:
            self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "deadlock"),
    [
        (Said(1213, "Deadlock found"), True),
        (Said(1205, "Lock wait timeout exceeded"), True),
        (Said(1020, "Record has changed"), True),
        (Said(1146, "no such table"), False),
        (Said("deadlock", sqlstate="40P01"), True),
        (Said("serialization", sqlstate="40001"), True),
        (Said("undefined table", sqlstate="42P01"), False),
        (Said("database is locked"), True),
        (Said("disk I/O error"), False),
    ],
)
def test_what_is_worth_another_try_at_once(error: Said, deadlock: bool) -> None:
    assert is_deadlock(OperationalError("UPDATE", {}, error)) is deadlock
