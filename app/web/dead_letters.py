"""Dead letters: tasks that FAILED with no retry left. Look at them, run them again, or delete them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from app.tasks.errors import TaskError, TaskNotFound, WrongState
from app.tasks.model import Status, Task
from app.tasks.store.queries import Filter
from app.web import auth, parts
from app.web.audit import audit
from app.web.bodies import query, task_id_of, whole_number
from app.web.problems import invalid, problem_of
from app.web.representation import moved_json, task_json

PAGE_DEFAULT = 50
PAGE_LIMIT = 200
RETRY_DEFAULT = 100
RETRY_LIMIT = 500
PURGE_BATCH = 500
PURGE_LIMIT = 10_000

_FAILED = Filter(status=Status.FAILED)

dead_letters = Blueprint("dead_letters", __name__, url_prefix="/admin/rq/dead-letters")
dead_letters.before_request(auth.guard(auth.Role.ADMIN))
dead_letters.after_request(audit)


@dead_letters.get("")
def list_dead_letters() -> dict[str, Any]:
    """Failed tasks, newest first."""
    given = query("limit", "cursor")
    limit = whole_number("limit", given.get("limit"), default=PAGE_DEFAULT, low=1, high=PAGE_LIMIT)
    cursor = task_id_of(given["cursor"]) if "cursor" in given else None
    if "cursor" in given and cursor is None:
        raise invalid("cursor", "is not a cursor that a page before has given")
    page = parts.store().queries.page(_FAILED, limit=limit + 1, before_id=cursor)
    more = len(page) > limit
    return {
        "tasks": [task_json(task) for task in page[:limit]],
        "next_cursor": str(page[limit - 1].task_id) if more else None,
    }


@dead_letters.post("/<task_id>/retry")
def retry_one(task_id: str) -> dict[str, Any]:
    """Let one dead letter run again. 404 if there is no such task, 409 if it has not failed."""
    return moved_json(parts.queue().retry(_failed_task(task_id, "retry").task_id))


@dead_letters.post("/retry")
def retry_all() -> dict[str, Any]:
    """Let up to `limit` dead letters run again, oldest last; repeat while `more` is true.

    A task that cannot (its user has an active one) is named in `refused` and stays.
    """
    limit = whole_number("limit", query("limit").get("limit"), default=RETRY_DEFAULT, low=1, high=RETRY_LIMIT)
    page = parts.store().queries.page(_FAILED, limit=limit)
    retried, refusals = [], []
    for task in page:
        try:
            retried.append(str(parts.queue().retry(task.task_id).task_id))
        except (WrongState, TaskNotFound):
            continue  # somebody else was first
        except TaskError as error:
            problem = problem_of(error)
            if problem.status >= 500:
                raise
            refusals.append({"id": str(task.task_id), "error": problem.body()})
    return {"retried": len(retried), "ids": retried, "refused": refusals, "more": len(page) == limit}


@dead_letters.delete("/<task_id>")
def purge_one(task_id: str) -> dict[str, Any]:
    """Delete one dead letter for good. 404 if there is no such task, 409 if it has not failed."""
    task = _failed_task(task_id, "purge")
    return {"purged": parts.store().moves.purge_failed(limit=1, task_id=task.task_id)}


@dead_letters.delete("")
def purge_all() -> dict[str, Any]:
    """Delete up to 10,000 dead letters for good; repeat while `more` is true."""
    purged = 0
    while purged < PURGE_LIMIT and (batch := parts.store().moves.purge_failed(limit=PURGE_BATCH)):
        purged += batch
    return {"purged": purged, "more": purged >= PURGE_LIMIT}


def _failed_task(text: str, verb: str) -> Task:
    number = task_id_of(text)
    if number is None:
        raise TaskNotFound(text)
    task = parts.store().queries.task(number)
    if task.status is not Status.FAILED:
        raise WrongState(task_id=number, status=task.status, verb=verb)
    return task
