"""Must show A2: both tracks at once, a share of failing handlers, every effect as promised."""

from __future__ import annotations

import pytest

from app.tasks.model import PRIORITIES, Status, Submitted
from tests.acceptance.conftest import StackMaker
from tests.acceptance.stack import Stack
from tests.servers import DatabaseServer

TASKS = 5000
FAILING_EVERY = 20


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "server_fixture",
    [
        pytest.param("mariadb_server", marks=pytest.mark.mariadb),
        pytest.param("postgres_server", marks=pytest.mark.postgresql),
    ],
)
def test_5000_tasks_on_both_tracks_have_each_effect_exactly_as_promised(
    server_fixture: str, request: pytest.FixtureRequest, redis_url: str, make_stack: StackMaker
) -> None:
    server: DatabaseServer = request.getfixturevalue(server_fixture)
    with server.database() as database_url:
        stack = make_stack(database_url, redis_url, RQ_HYBRID_MODE="true", RQ_ROLLOUT_PERCENT=50)
        stack.start_pool(workers=2)
        failing = _submit(stack)
        stack.wait_until_ended(TASKS, deadline_seconds=180)

        assert stack.counts() == {"COMPLETED": TASKS}
        starts = stack.starts()
        assert len(starts) == TASKS
        assert {task_id for task_id, times in starts.items() if times == 2} == failing
        assert {times for task_id, times in starts.items() if task_id not in failing} == {1}
        assert stack.pids() == {row.pid for row in stack.workers()}
        assert stack.lengths() == dict.fromkeys(PRIORITIES, 0)


def _submit(stack: Stack) -> set[int]:
    """5,000 tasks, every twentieth failing once. Returns the ids of the failing ones."""
    failing: set[int] = set()
    on_redis = 0
    for start in range(0, TASKS, 500):
        numbers = range(start, start + 500)
        answers = stack.system.queue.submit_many(
            stack.ledger_request(priority=PRIORITIES[number % 4], fail_first=number % FAILING_EVERY == 0)
            for number in numbers
        )
        for number, answer in zip(numbers, answers, strict=True):
            assert isinstance(answer, Submitted)
            on_redis += answer.status is Status.DISPATCHED
            if number % FAILING_EVERY == 0:
                failing.add(answer.task_id)
    assert TASKS * 0.45 < on_redis < TASKS * 0.55
    return failing
