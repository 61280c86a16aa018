"""A bulk goes in parts: while one is stored, the next is checked, and the one before it gets its tickets.

This process, the database and Redis each have their share of the work, and none has to wait for the others. A
part is a transaction of its own, so what an outage in the middle leaves stored is known part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from app.tasks.errors import TaskError
from app.tasks.model import NewTask, Submitted
from app.tasks.submission import TaskRequest

PART = 2000

Answers = list[Submitted | TaskError]
Check = Callable[[TaskRequest], NewTask]
Store = Callable[[Sequence[NewTask]], Callable[[], Answers]]


def submit_in_parts(requests: Iterable[TaskRequest], check: Check, store: Store) -> Answers:
    """The answers to all requests, in their order.

    `check` raises `TaskError` for a request that cannot be stored, which is its answer. `store` stores those
    of one part, and returns what is to follow and gives their answers. What it raises is raised if nothing
    was stored before; else it is the answer to that part and to all after it, which are not tried.
    """
    given = list(requests)  # what its maker raises comes before anything is stored
    starts = range(0, len(given), PART)
    if len(starts) < 2:
        part = _Part(given, check)
        return part.merged(store(part.news)() if part.news else [])
    storage = _Storage(store)
    with _one_thread() as storing, _one_thread() as following:
        under_way: list[tuple[_Part, Future[Answers]]] = []
        for start in starts:
            part = _Part(given[start : start + PART], check)
            stored = storing.submit(storage.store, part.news)
            under_way.append((part, following.submit(_follow, stored)))
        return [answer for part, answered in under_way for answer in part.merged(answered.result())]


class _Part:
    """Some requests, checked."""

    def __init__(self, requests: Sequence[TaskRequest], check: Check) -> None:
        self._checked: list[NewTask | TaskError] = []
        for request in requests:
            try:
                self._checked.append(check(request))
            except TaskError as error:
                self._checked.append(error)
        self.news = [one for one in self._checked if isinstance(one, NewTask)]

    def merged(self, answers: Answers) -> Answers:
        """The answers to all, from those to the sound ones."""
        stored = iter(answers)
        return [next(stored) if isinstance(one, NewTask) else one for one in self._checked]


class _Storage:
    """Stores part after part, until one fails."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._has_some = False
        self._failure: TaskError | None = None

    def store(self, news: Sequence[NewTask]) -> Callable[[], Answers]:
        if not news:
            return list
        if self._failure is None:
            try:
                follow = self._store(news)
            except TaskError as error:
                self._failure = error
            else:
                self._has_some = True
                return follow
        if not self._has_some:
            raise self._failure
        failed: Answers = [self._failure] * len(news)
        return lambda: failed


def _follow(stored: Future[Callable[[], Answers]]) -> Answers:
    return stored.result()()


@contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """What has not begun when the block is left is not begun any more."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
