"""Processors over the tables of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from app.distributed import DatabaseManager, DistributedProcessor
from config import Config
from tests.contract.records.parts import LEASE_SECONDS, MakeProcessor
from tests.contract.rows import Rows


@pytest.fixture
def make_processor(rows: Rows) -> Iterator[MakeProcessor]:
    """Processors over the same database, each as a process of its own would have one."""
    with ExitStack() as stack:

        def make(variables: dict[str, str] | None = None) -> DistributedProcessor:
            settings = {"DATABASE_URL": rows.url, "RQ_ENABLED": False, "RQ_LEASE_SECONDS": LEASE_SECONDS}
            config = Config.for_tests(variables or {}, **settings)
            database = DatabaseManager(config)
            stack.callback(database.close)
            return stack.enter_context(DistributedProcessor(database))

        yield make


@pytest.fixture
def processor(make_processor: MakeProcessor) -> DistributedProcessor:
    return make_processor()
