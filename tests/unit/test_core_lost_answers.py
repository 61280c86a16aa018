"""A submission whose answer was lost and which then meets other changes stays one task."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pydantic import TypeAdapter

from app.tasks.database import CommitUnknown
from app.tasks.handlers import Handler, HandlerRegistry
from app.tasks.model import PRIORITIES, Status
from app.tasks.queue import TaskQueue
from app.tasks.routing import Route
from app.tasks.store import Store
from app.tasks.store.submitting import Refusal
from app.tasks.submission import TaskRequest


def test_an_insert_that_arrives_late_after_a_flip_is_not_stored_a_second_time() -> None:
    tried: list[int] = []
    answers: list[Any] = [CommitUnknown("lost"), Refusal.ROUTING_CHANGED, Refusal.ID_EXISTS]

    def insert(new: Any, placement: Any, connection: Any) -> Any:
        tried.append(new.task_id)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stored(ids: Any) -> dict[int, Status]:
        return {} if answers else dict.fromkeys(ids, Status.DISPATCHED)  # the first try arrives at last

    rules = {priority: Route(priority, 1, 100) for priority in PRIORITIES}
    store = SimpleNamespace(
        submissions=SimpleNamespace(insert=insert, stored=stored),
        routing=SimpleNamespace(known=lambda: rules, refresh=lambda: rules),
        notices=SimpleNamespace(announce=lambda topic: None),
        pools=SimpleNamespace(lane=lambda name: None),
    )
    handler = Handler("test.noop", lambda payload: None, TypeAdapter(Any), takes_context=False)
    queue = TaskQueue(cast(Store, store), HandlerRegistry([handler]), None)
    submitted = queue.submit(TaskRequest("test.noop"))
    assert tried == [submitted.task_id] * 3
    assert answers == []
