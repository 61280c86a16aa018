"""Connections that break: what was stored stays stored once, and the caller learns the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from app.tasks.database import CommitUnknown, Database
from app.tasks.errors import DatabaseUnavailable
from app.tasks.handlers import HandlerRegistry
from app.tasks.migrate import migrate
from app.tasks.model import Status, Submitted
from app.tasks.queue import TaskQueue
from app.tasks.runner import LiveTask, Runner, boot_clock
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from tests.contract.parts import HANDLERS, handler, request
from tests.contract.rows import Rows
from tests.servers import DatabaseServer, PostgresServer


class Own:
    """A database of the test's own, whose connections the server may end."""

    def __init__(self, server: DatabaseServer, url: str) -> None:
        self.database = Database(url)
        migrate(self.database)
        self.store = Store.over(self.database)
        self.store.routing.ensure(redis_percent=100)
        self.queue = TaskQueue(self.store, HANDLERS, None)
        self.rows = Rows(url, self.database)
        self._server = server
        self._name = url.rpartition("/")[2]

    def disconnect_all(self) -> None:
        self._server.disconnect_all(self._name)

    def close(self) -> None:
        self.rows.close()
        self.database.dispose()


@pytest.fixture(
    params=[
        pytest.param("mariadb_server", marks=pytest.mark.mariadb),
        pytest.param("postgres_server", marks=pytest.mark.postgresql),
    ]
)
def own(request: pytest.FixtureRequest) -> Iterator[Own]:
    server: DatabaseServer = request.getfixturevalue(request.param)
    with server.database() as url:
        made = Own(server, url)
        yield made
        made.close()


def test_connections_that_the_server_has_closed_cost_nobody_an_answer(own: Own) -> None:
    first = own.queue.submit(request())
    own.disconnect_all()
    second = own.queue.submit(request())
    own.disconnect_all()
    (third,) = own.queue.submit_many([request()])
    assert isinstance(third, Submitted)
    own.disconnect_all()
    assert own.store.queries.task(first.task_id).task_id == first.task_id
    own.disconnect_all()
    assert own.queue.cancel(second.task_id).task_id == second.task_id
    own.disconnect_all()
    answer = own.store.claims.tickets([(first.task_id, 1)], holder="w", lease_seconds=30)
    assert [claim.task_id for claim in answer.won] == [first.task_id]
    own.rows.engine.dispose()
    assert sorted(own.rows.all()) == [first.task_id, second.task_id, third.task_id]


@pytest.mark.postgresql
def test_a_result_outlives_the_time_in_which_the_database_takes_no_writes(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        own = Own(postgres_server, url)
        submitted = own.queue.submit(request())
        claims = own.store.claims.tickets([(submitted.task_id, 1)], holder="w", lease_seconds=30).won
        name = url.rpartition("/")[2]
        postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        own.disconnect_all()

        def take_writes_again(seconds: float) -> bool:
            postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            own.disconnect_all()
            return False

        handlers = HandlerRegistry([handler("test.noop", lambda payload: "done")])
        runner = Runner(own.store, handlers, CoreSettings(), pause=take_writes_again)
        settled = runner.run(LiveTask(claims[0], own.store, lease_ends=boot_clock() + 30))
        assert settled is not None
        assert settled.recorded == {submitted.task_id: Status.COMPLETED}
        own.close()


# --- answers that are lost on their way ------------------------------------------------------------------


class LosesAnswers(Database):
    """Does what it is asked, and once loses the answer as a broken connection would."""

    lost = 0

    def run(self, work: Callable[[Connection], Any]) -> Any:
        return self._lose(super().run(work))

    def write_one(self, work: Callable[[Connection], Any]) -> Any:
        return self._lose(super().write_one(work))

    def direct(self, work: Callable[[Any], Any]) -> Any:
        return self._lose(super().direct(work))

    def _lose(self, answer: Any) -> Any:
        if self.lost:
            self.lost -= 1
            raise CommitUnknown("the answer was lost")
        return answer


@pytest.fixture
def forgetful(rows: Rows) -> Iterator[LosesAnswers]:
    database = LosesAnswers(rows.url)
    Store.over(database).routing.ensure(redis_percent=100)
    yield database
    database.dispose()


def queue_over(database: Database, **_: Any) -> TaskQueue:
    return TaskQueue(Store.over(database), HANDLERS, None)


def test_a_submission_whose_answer_was_lost_is_found_and_not_repeated(
    forgetful: LosesAnswers, rows: Rows
) -> None:
    queue = queue_over(forgetful)
    queue.store.routing.refresh()
    forgetful.lost = 1
    answer = queue.submit(request(idempotency_key="k"))
    assert list(rows.all()) == [answer.task_id]


def test_a_submission_of_which_nothing_arrived_is_sent_again_under_the_same_id(
    rows: Rows, forgetful: LosesAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_over(forgetful)
    calls: list[int] = []
    insert = queue.store.submissions.insert

    def first_goes_nowhere(new: Any, *rest: Any) -> Any:
        calls.append(new.task_id)
        if len(calls) == 1:
            raise CommitUnknown("gone before it was sent")
        return insert(new, *rest)

    monkeypatch.setattr(queue.store.submissions, "insert", first_goes_nowhere)
    answer = queue.submit(request())
    assert calls == [answer.task_id] * 2
    assert list(rows.all()) == [answer.task_id]


def test_many_submissions_whose_answer_was_lost_are_found_and_answered(
    forgetful: LosesAnswers, rows: Rows
) -> None:
    queue = queue_over(forgetful)
    forgetful.lost = 1
    answers = queue.submit_many([request() for _ in range(5)])
    assert all(isinstance(answer, Submitted) for answer in answers)
    assert sorted(rows.all()) == [answer.task_id for answer in answers if isinstance(answer, Submitted)]


def test_many_submissions_of_which_nothing_arrived_are_reported_as_such(
    forgetful: LosesAnswers, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_over(forgetful)

    def nothing_arrives(work: Any) -> Any:
        raise CommitUnknown("gone before it was sent")

    monkeypatch.setattr(forgetful, "run", nothing_arrives)
    with pytest.raises(DatabaseUnavailable):
        queue.submit_many([request()])
    assert rows.count() == 0
