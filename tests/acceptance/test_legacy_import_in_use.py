"""Must show C1 in small: a legacy queue is imported while old and new workers and its application use it."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.acceptance.conftest import StackMaker
from tests.imports.trial import Trial, settings
from tests.servers import DatabaseServer

ROWS = 1000


@pytest.mark.timeout(900)
@pytest.mark.mariadb
@pytest.mark.parametrize("old_shape", [False, True], ids=["new shape", "old shape"])
def test_every_row_of_a_queue_in_use_is_run_once_or_named(
    mariadb_server: DatabaseServer, redis_url: str, make_stack: StackMaker, old_shape: bool
) -> None:
    with mariadb_server.database() as url:
        stack = make_stack(url, redis_url, **settings())
        with closing(Trial(stack, url, rows=ROWS, old_shape=old_shape)) as trial:
            figures = trial.run(pool_workers=2, deadline_seconds=300)
        # how many each side gets is up to the machine; the trial has accounted for every one
        assert figures.imported > 0
        assert figures.by_old_worker > 0
        assert figures.quarantined > 0
        stack.close()
