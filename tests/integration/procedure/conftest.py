"""The installation that the tests of a procedure move."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.place import IN_THE_DATABASE, sqlite_in
from tests.integration.procedure.site import Site


@pytest.fixture
def place(tmp_path: Path, redis_url: str) -> Iterator[Site]:
    servers = {"DATABASE_URL": sqlite_in(tmp_path), "RQ_REDIS_URL": redis_url}
    place = Site(tmp_path, **servers, VAR_DIR=str(tmp_path / "var"), **IN_THE_DATABASE)
    yield place
    place.close()
