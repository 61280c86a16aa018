"""Children: a task's handler stores other tasks, once, and waits for what they bring.

What is stored and what waits is in the rows (`store/families.py`); handlers use `app.distributed.fan_out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from app.tasks.database import CommitUnknown
from app.tasks.errors import DatabaseUnavailable, FieldProblem, InvalidTask, TaskNotFound, WrongState
from app.tasks.keys import CHILD_KEYS
from app.tasks.model import PRIORITIES, Claim, Moved, NewTask, Priority, Status
from app.tasks.schema import AnyRow
from app.tasks.store import Store
from app.tasks.submission import TaskRequest

PHASE_CHARACTERS = 40
NAME_CHARACTERS = 60
TAG_CHARACTERS = 40
TRIES = 5


class Families:
    """The verbs on parents and children."""

    def __init__(
        self,
        store: Store,
        check: Callable[[TaskRequest], NewTask],
        *,
        follow: Callable[[list[Moved]], None],
        cancel: Callable[[int], Moved],
    ) -> None:
        self._store = store
        self._check = check
        self._follow = follow
        self._cancel = cancel

    def fan_out(
        self,
        parent: Claim,
        phase: str,
        task_name: str,
        payloads: Mapping[str, Any],
        *,
        tag: str | None = None,
        max_retries: int | None = None,
        timeout_seconds: int | None = None,
        priority: Priority | str | None = None,
        pool: str | None = None,
    ) -> bool:
        """Store a child for each payload that the phase has none for under that name. False: the claim of the
        parent is lost, and nothing was stored.

        A child is of its parent's user, and of its queue if none is given; pauses of intake and limits of
        active tasks are for submissions, and do not hold it up. Raises `InvalidTask` naming what is wrong,
        and `DatabaseUnavailable`.
        """
        _check_words({"phase": (phase, PHASE_CHARACTERS)} | ({"tag": (tag, TAG_CHARACTERS)} if tag else {}))
        _check_words({f"the child {name!r}": (name, NAME_CHARACTERS) for name in payloads})
        news = {}
        for name, payload in payloads.items():
            request = TaskRequest(
                task_name,
                payload,
                priority=priority or (parent.priority if parent.priority in PRIORITIES else None),
                user_id=parent.user_id,
                max_retries=max_retries,
                timeout_seconds=timeout_seconds,
                pool=pool,
            )
            key = f"{CHILD_KEYS}{parent.task_id}:{phase}:{name}"
            news[name] = self._check(request)._replace(idempotency_key=key)
        moves = self._add(parent, phase, news, tag)
        if moves is None:
            return False
        self._follow([move for move in moves if move.status is not Status.SCHEDULED])
        if tag is not None:
            self._follow(self._store.families.admit())
        return True

    def _add(
        self, parent: Claim, phase: str, news: Mapping[str, NewTask], tag: str | None
    ) -> list[Moved] | None:
        """As the rows' `add`. A commit whose answer was lost is looked after by the next try: what is there
        is left out, and the sweeper pushes its tickets."""
        for _ in range(TRIES):
            with suppress(CommitUnknown):
                return self._store.families.add(parent, phase, news, tag)
        raise DatabaseUnavailable("the database broke every connection before it answered")

    def of_phase(self, parent: Claim, phase: str) -> list[AnyRow]:
        """The children of a phase in the order of their births: (id, name, status, result, error,
        created_at), each with the database's clock as `now`."""
        return self._store.families.of_phase(parent.task_id, phase)

    def set_deadline(self, parent: Claim, moment: datetime) -> None:
        """Have the parent called again then, if its children have not ended before."""
        self._store.families.set_deadline(parent.task_id, moment)

    def children_of(self, parent_id: int, *, limit: int = 1000) -> list[AnyRow]:
        """The children of a task in the order of their births, each with its phase, name, tag, status and
        times."""
        return self._store.families.of_parent(parent_id, limit=limit)

    def newest_runs(
        self, *, limit: int = 30, task_name: str | None = None
    ) -> list[tuple[AnyRow, dict[Status, int]]]:
        """The tasks that have children, newest first, each with how many children are in which status; only
        those of a name, if one is given. Two statements."""
        rows = self._store.families.newest_parents(limit=limit, task_name=task_name)
        tally = self._store.families.tally([row.id for row in rows])
        return [(row, tally[row.id]) for row in rows]

    def tally_of(self, parent_id: int) -> dict[Status, int]:
        """How many children of a task are in which status."""
        return self._store.families.tally([parent_id])[parent_id]

    def limits(self) -> dict[str, int]:
        """How many children with each tag may be on their way at a time; tags without a limit have none."""
        return self._store.families.limits()

    def limit(self, tag: str, at_most: int | None) -> None:
        """Admit no more than so many children with this tag at a time, on all hosts together; None: as many
        as there are. Raises `InvalidTask`."""
        _check_words({"tag": (tag, TAG_CHARACTERS)})
        if at_most is not None and at_most < 0:
            raise InvalidTask([FieldProblem("at_most", "must not be negative")])
        self._store.families.limit(tag, at_most)

    def step(self) -> int:
        """The sweeper's: what children's ends let go on goes on, and a cancelled parent's children stop.
        Returns how many tasks it moved."""
        rows = self._store.families
        rows.close_ended()
        moves = [*rows.wake(), *rows.admit()]
        self._follow(moves)
        unwanted = rows.unwanted()
        for task_id in unwanted:
            with suppress(TaskNotFound, WrongState):  # it has just ended
                self._cancel(task_id)
        return len(moves) + len(unwanted)


def _check_words(words: Mapping[str, tuple[str, int]]) -> None:
    problems = [
        FieldProblem(what, f"must be 1 to {limit} printable characters without blanks at the ends")
        for what, (word, limit) in words.items()
        if not (0 < len(word) <= limit and word.isprintable() and word == word.strip())
    ]
    if problems:
        raise InvalidTask(problems)
