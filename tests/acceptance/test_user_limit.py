"""Must show A4: one active task per user, whoever submits at the same time through whichever process."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from app.tasks.model import Status
from tests.acceptance.conftest import StackMaker

PROCESSES = 4
SUBMISSIONS = 50


@pytest.mark.timeout(120)
def test_of_50_parallel_submissions_of_a_user_over_4_processes_one_is_accepted(
    database_url: str, redis_url: str, make_stack: StackMaker
) -> None:
    stack = make_stack(database_url, redis_url, MAX_ACTIVE_TASKS_PER_USER=1, RQ_WORKER_MODE="external")
    with ThreadPoolExecutor(PROCESSES) as starters:
        urls = [web.url for web in starters.map(lambda _: stack.start_web(), range(PROCESSES))]
    body = {"name": "test.noop", "user_id": "one user"}
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(SUBMISSIONS) as threads:
        answers = list(
            threads.map(
                lambda number: client.post(f"{urls[number % PROCESSES]}/api/tasks", json=body),
                range(SUBMISSIONS),
            )
        )
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: SUBMISSIONS - 1}
    accepted = next(answer.json()["id"] for answer in answers if answer.status_code == 202)
    named = {answer.json()["active_task_id"] for answer in answers if answer.status_code == 409}
    assert named == {accepted}
    assert stack.count(Status.DISPATCHED) == 1
