"""The verifier on three databases: it names what was planted, each by its class, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from app.tasks.tickets import RQQueueManager
from app.transfer.baseline import Baseline, record
from app.transfer.verification.suspects import Patience
from app.transfer.verification.tickets import TicketReader
from app.transfer.verification.verifier import Verifier, Wanted
from tests.contract.rows import Rows
from tests.proof.planting import LIMITS, Field, Planted, time_limit

ROWS = 1_000
FAULTS = 48  # three of each of sixteen classes
AT_ONCE = Patience(settle_seconds=0.02, limit_seconds=2)


class Site:
    """Rows that were recorded, moved to Redis, and can be verified."""

    def __init__(self, rows: Rows, raw: redis.Redis, folder: Path) -> None:
        self.rows, self.folder = rows, folder / "baseline"
        self.tickets = RQQueueManager(raw, time_limit=time_limit)
        self.raw = raw
        self.field = Field(rows.engine, raw)

    def grow(self, count: int = ROWS) -> None:
        self.field.sow(count)
        record(self.rows.database, self.folder)
        self.field.move(self.tickets)

    def verify(self, **wanted: Any) -> Any:
        options = Wanted(**({"patience": AT_ONCE} | wanted))
        reader = TicketReader(self.raw)
        baseline = Baseline(self.folder)
        return Verifier(self.rows.database, reader, LIMITS, baseline=baseline, wanted=options).run()


@pytest.fixture
def bytes_client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def site(rows: Rows, bytes_client: Any, tmp_path: Path) -> Site:
    return Site(rows, bytes_client, tmp_path)


def found_by(report: Any) -> set[Planted]:
    return {Planted(finding.fault.value, finding.key) for finding in report.findings}


@pytest.mark.parametrize("in_database", [True, False])
def test_what_was_moved_rightly_is_clean(site: Site, in_database: bool) -> None:
    site.grow(300)

    report = site.verify(digests_in_database=in_database)

    assert (report.findings, report.pending, report.unread) == ([], {}, [])
    assert report.exit_code == 0
    assert report.rows == report.baseline["present"] == 300
    assert sum(report.tickets.values()) == len(site.field.waiting)


def test_each_planted_fault_is_named_by_its_class_and_nothing_else_is(site: Site) -> None:
    site.grow()
    planted = set(site.field.plant(FAULTS))

    report = site.verify()

    assert found_by(report) == planted
    assert len(report.findings) == FAULTS
    assert (report.exit_code, report.pending) == (1, {})
