"""Submit a few tasks of every priority and follow them to their end, to see that both tracks work. Exit 0:
all completed. 1: some did not, in time or well; they are named with where they are."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from typing import Any

import click

from app.system import System
from app.tasks.model import ENDED, PRIORITIES, Status, Submitted
from app.tasks.submission import TaskRequest
from scripts.migration.commands import GOOD, PROBLEM, guarded, json_option, running_system, say
from scripts.migration.submit_test_tasks import KEY, NAME

LOOK_SECONDS = 0.1


@click.command(help=__doc__)
@click.option("--count", type=click.IntRange(1, 1000), default=10, show_default=True, help="Per priority.")
@click.option("--limit", "limit_seconds", type=click.FloatRange(min=0), default=60.0, show_default=True)
@json_option
def main(count: int, limit_seconds: float, as_json: bool) -> None:
    with running_system() as system:
        guarded(lambda: follow(system, count, limit_seconds, as_json=as_json))


def follow(system: System, count: int, limit_seconds: float, *, as_json: bool) -> int:
    prefix = f"{KEY}{secrets.token_hex(4)}:"
    answers = system.queue.submit_many(
        TaskRequest(NAME, {}, priority=priority, idempotency_key=f"{prefix}{priority.value}:{number}")
        for priority in PRIORITIES
        for number in range(count)
    )
    tracks = Counter(answer.status.value for answer in answers if isinstance(answer, Submitted))
    refused = [str(answer) for answer in answers if not isinstance(answer, Submitted)]
    until = time.monotonic() + limit_seconds
    while True:
        states = system.store.queries.keyed(prefix)
        if all(status in ENDED for status in states.values()) or time.monotonic() >= until:
            break
        time.sleep(LOOK_SECONDS)
    open_ones = {task_id: status for task_id, status in states.items() if status is not Status.COMPLETED}
    value: dict[str, Any] = {
        "submitted": tracks,
        "refused": refused[:10],
        "completed": len(states) - len(open_ones),
        "not_completed": {str(task_id): status.value for task_id, status in open_ones.items()},
    }
    lines = [f"{status} at first: {number}" for status, number in sorted(tracks.items())]
    lines.append(f"completed: {value['completed']} of {len(states)}, refused: {len(refused)}")
    lines += [f"  {task_id} is {status.value}" for task_id, status in list(open_ones.items())[:20]]
    say(value, "\n".join(lines), as_json=as_json)
    return PROBLEM if open_ones or refused else GOOD


if __name__ == "__main__":
    main()
