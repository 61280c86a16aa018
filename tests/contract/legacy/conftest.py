"""A legacy queue beside the tables of tasks, and a queue in database mode that may import it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.tasks.queue import TaskQueue
from app.tasks.store import Store
from tests.contract.legacy.parts import queue_over
from tests.contract.parts import MakeStore
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue


@pytest.fixture
def store(rows: Rows, make_store: MakeStore) -> Store:
    return make_store(rows, redis_percent=0)


@pytest.fixture
def queue(store: Store) -> TaskQueue:
    return queue_over(store)


@pytest.fixture
def legacy(rows: Rows) -> Iterator[CaptionQueue]:
    """The table as the application has it today, without rows."""
    made = CaptionQueue(rows.engine)
    yield made
    made.drop()


@pytest.fixture(params=[False, True], ids=["new shape", "old shape"])
def either_shape(request: pytest.FixtureRequest, rows: Rows) -> Iterator[CaptionQueue]:
    made = CaptionQueue(rows.engine, old_shape=request.param)
    yield made
    made.drop()
