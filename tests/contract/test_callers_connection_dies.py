"""A caller's connection that dies with a submission on it: the caller gets its own error, and can go on."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.contract.parts import MakeStore, make_queue_over, request
from tests.contract.rows import Rows


def test_a_rollback_after_the_connection_died_forgets_its_tickets_and_raises_nothing(
    server_rows: Rows, make_store: MakeStore
) -> None:
    store = make_store(server_rows)
    queue = make_queue_over(store)()
    own_number, end_it = {
        "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    }[server_rows.kind]
    with store.database.engine.connect() as connection:
        queue.submit(request(), connection=connection)
        server_rows.execute(end_it.format(connection.execute(text(own_number)).scalar_one()))
        with pytest.raises(DBAPIError):
            connection.execute(text("SELECT 1"))
        connection.rollback()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert server_rows.all() == {}
