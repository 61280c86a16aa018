"""The task API: submit, look, cancel, retry, reprioritise.

A program that sends X-User-Id acts for that user: what it submits is theirs, and it sees theirs only.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify, request

from app.tasks.errors import IntakePaused, TaskError, TaskNotFound
from app.tasks.model import PRIORITIES, Priority, Status, Submitted, Task
from app.tasks.store.queries import Filter
from app.tasks.submission import TaskRequest
from app.web import auth, parts
from app.web.bodies import body_as, one_of, parsed, query, task_id_of, whole_number
from app.web.metrics import count_submission
from app.web.problems import Problem, Refused, invalid, problem_of
from app.web.representation import event_json, moved_json, submitted_json, task_json
from app.web.schemas import BatchBody, PriorityBody, TaskBody

PAGE_DEFAULT = 50
PAGE_LIMIT = 200
BATCH_BODY_BYTES = 32 * 1024 * 1024
KEY_HEADER = "Idempotency-Key"

api = Blueprint("api", __name__, url_prefix="/api")


@api.before_request
def _limits() -> None:
    if request.endpoint == "api.submit_batch":
        request.max_content_length = BATCH_BODY_BYTES


api.before_request(auth.guard(auth.Role.SUBMITTER))


# --- submit ---------------------------------------------------------------------------------------


@api.post("/tasks")
def submit() -> tuple[Response, int, dict[str, str]]:
    """Accept one task: 202 once its row is stored, whatever Redis does.

    Without a priority it is normal, or high if the caller has proven to be an admin.
    """
    try:
        wanted = _with_key_header(body_as(TaskBody))
        submitted = parts.queue().submit(_task_request(wanted))
    except (TaskError, Refused) as error:
        count_submission(_problem(error).kind)
        raise
    count_submission(_outcome(submitted))
    body = submitted_json(submitted)
    return jsonify(body), 202, {"Location": body["links"]["self"]}


@api.post("/tasks/batch")
def submit_batch() -> tuple[Response, int]:
    """Accept up to 1,000 tasks. Each has its own answer, in order: what `submit` says, or its problem."""
    items = body_as(BatchBody).tasks
    answers: list[Submitted | TaskError | Refused | None] = [None] * len(items)
    requests: dict[int, TaskRequest] = {}
    for position, item in enumerate(items):
        try:
            requests[position] = _task_request(parsed(TaskBody, item))
        except Refused as error:
            answers[position] = error
    for position, given in zip(requests, parts.queue().submit_many(requests.values()), strict=True):
        answers[position] = given
    _refuse_if_paused(answers)
    for answer in answers:
        count_submission(_outcome(answer))
    return jsonify(tasks=[_batch_answer(answer) for answer in answers]), 202


@api.post("/test-rq-task")
def submit_test_task() -> dict[str, Any]:
    """Submit a task that does nothing, for nobody: no user limit applies. 200, as old scripts expect."""
    submitted = parts.queue().submit(TaskRequest("test.noop"))
    count_submission(_outcome(submitted))
    body = submitted_json(submitted)
    return {**body, "task_id": body["id"]}


def _with_key_header(body: TaskBody) -> TaskBody:
    key = auth.header_text(KEY_HEADER)
    if key is None:
        return body
    if body.idempotency_key not in (None, key):
        raise invalid("idempotency_key", f"differs from the header {KEY_HEADER}")
    return body.model_copy(update={"idempotency_key": key})


def _task_request(body: TaskBody) -> TaskRequest:
    who = auth.caller()
    if who.user_id is not None and body.user_id not in (None, who.user_id):
        raise invalid("user_id", f"differs from the header {auth.USER_HEADER}")
    priority = body.priority
    if priority is None and who.proven_admin:
        priority = Priority.HIGH
    return TaskRequest(
        name=body.name,
        payload=body.payload,
        priority=priority,
        user_id=who.user_id if body.user_id is None else body.user_id,
        run_at=body.run_at,
        idempotency_key=body.idempotency_key,
        max_retries=body.max_retries,
        timeout_seconds=body.timeout_seconds,
    )


def _refuse_if_paused(answers: list[Submitted | TaskError | Refused | None]) -> None:
    """While intake is refused, a batch of which nothing was taken gets the 503 that one task gets."""
    paused = [answer for answer in answers if isinstance(answer, IntakePaused)]
    if paused and not any(isinstance(answer, Submitted) for answer in answers):
        raise paused[0]


def _batch_answer(answer: Submitted | TaskError | Refused | None) -> dict[str, Any]:
    if isinstance(answer, Submitted):
        return submitted_json(answer)
    assert answer is not None
    return {"error": _problem(answer).body()}


def _problem(error: TaskError | Refused) -> Problem:
    return error.problem if isinstance(error, Refused) else problem_of(error)


def _outcome(answer: Submitted | TaskError | Refused | None) -> str:
    if isinstance(answer, Submitted):
        return "accepted" if answer.created else "repeated"
    assert answer is not None
    return _problem(answer).kind


# --- look -----------------------------------------------------------------------------------------


@api.get("/tasks")
def list_tasks() -> dict[str, Any]:
    """Tasks newest first; `cursor` continues where `next_cursor` of the page before says."""
    given = query("status", "priority", "name", "user_id", "ids", "limit", "cursor")
    ids = _ids(request.args.get("ids"))
    limit = whole_number(
        "limit",
        given.get("limit"),
        default=PAGE_DEFAULT if ids is None else PAGE_LIMIT,
        low=1,
        high=PAGE_LIMIT,
    )
    page = parts.store().queries.page(
        _filter(given, ids), limit=limit + 1, before_id=_cursor(given.get("cursor"))
    )
    more = len(page) > limit
    return {
        "tasks": [task_json(task) for task in page[:limit]],
        "next_cursor": str(page[limit - 1].task_id) if more else None,
    }


def _filter(given: dict[str, str], ids: list[int] | None) -> Filter:
    status = one_of("status", given.get("status"), [status.value for status in Status])
    priority = one_of("priority", given.get("priority"), [priority.value for priority in PRIORITIES])
    return Filter(
        status=Status(status) if status else None,
        priority=Priority(priority) if priority else None,
        name=given.get("name"),
        user_id=_listed_user(given.get("user_id")),
        ids=ids,
    )


def _listed_user(wanted: str | None) -> str | None:
    own = auth.caller().user_id
    if own is not None and wanted not in (None, own):
        raise invalid("user_id", f"differs from the header {auth.USER_HEADER}")
    return own or wanted


def _ids(text: str | None) -> list[int] | None:
    if text is None:
        return None
    numbers = [task_id_of(part.strip()) for part in text.split(",")]
    ids = [number for number in numbers if number is not None]
    if len(ids) < len(numbers) or len(ids) > PAGE_LIMIT:
        raise invalid("ids", f"must be up to {PAGE_LIMIT} task ids with commas between")
    return ids


def _cursor(text: str | None) -> int | None:
    if text is None:
        return None
    cursor = task_id_of(text)
    if cursor is None:
        raise invalid("cursor", "is not a cursor that a page before has given")
    return cursor


@api.get("/tasks/<task_id>")
def show_task(task_id: str) -> dict[str, Any]:
    """One task; with `events=1` also what happened to it."""
    wants_events = one_of("events", query("events").get("events"), ["0", "1"]) == "1"
    task = visible_task(task_id)
    body = task_json(task)
    if wants_events:
        body["events"] = [event_json(event) for event in parts.store().queries.events(task.task_id)]
    return body


def visible_task(text: str) -> Task:
    """The task with this id, if the caller may see it. Raises `TaskNotFound`: for others' tasks too."""
    number = task_id_of(text)
    if number is None:
        raise TaskNotFound(text)
    task = parts.store().queries.task(number)
    own = auth.caller().user_id
    if own is not None and task.user_id != own:
        raise TaskNotFound(text)
    return task


# --- change ---------------------------------------------------------------------------------------


@api.post("/tasks/<task_id>/cancel")
def cancel(task_id: str) -> tuple[dict[str, Any], int]:
    """Cancel: 200 if it is done, 202 if a running task was asked to stop."""
    moved = parts.queue().cancel(visible_task(task_id).task_id)
    return moved_json(moved), 202 if moved.status is Status.PROCESSING else 200


@api.post("/tasks/<task_id>/retry")
def retry(task_id: str) -> dict[str, Any]:
    """Let an ended task wait again, its failures forgotten."""
    return moved_json(parts.queue().retry(visible_task(task_id).task_id))


@api.put("/tasks/<task_id>/priority")
def reprioritise(task_id: str) -> dict[str, Any]:
    """Move a waiting task to another priority."""
    word = one_of("priority", body_as(PriorityBody).priority, [priority.value for priority in PRIORITIES])
    assert word is not None
    moved = parts.queue().reprioritise(visible_task(task_id).task_id, Priority(word))
    return {**moved_json(moved), "priority": word}
