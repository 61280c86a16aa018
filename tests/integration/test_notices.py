"""Notices beside SQLite: a named pipe wakes all who listen, and a death leaves nothing to tidy up."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from app.tasks.database import Database
from app.tasks.store.notices import Notices, NotListening, Topic
from tests.waiting import wait_until

pytestmark = pytest.mark.sqlite


@pytest.fixture
def notices(tmp_path: Path) -> Iterator[Notices]:
    database = Database(f"sqlite:///{tmp_path / 'tasks.db'}")
    yield Notices(database)
    database.dispose()


def test_each_notice_wakes_all_who_listen_to_its_topic_and_nobody_else(notices: Notices) -> None:
    notices.announce(Topic.ROWS)  # nobody listens: no error, and nothing that is heard later
    pollers = [notices.listen(Topic.ROWS) for _ in range(3)]
    sweeper = notices.listen(Topic.DUE)
    for _ in range(3):
        assert not any(listener.wait(0) for listener in (*pollers, sweeper))
        notices.announce(Topic.ROWS)
        assert all(poller.wait(60) for poller in pollers)
        assert not sweeper.wait(0)
    for listener in (*pollers, sweeper):
        listener.close()


def test_many_notices_before_a_look_are_heard_as_one(notices: Notices) -> None:
    poller = notices.listen(Topic.ROWS)
    for _ in range(100):
        notices.announce(Topic.ROWS)
    assert poller.wait(0)
    assert not poller.wait(0)
    poller.close()


def test_a_sleeping_listener_costs_no_processor_time_and_wakes_at_once(notices: Notices) -> None:
    poller = notices.listen(Topic.ROWS)
    began = time.process_time()
    assert not poller.wait(1)
    assert time.process_time() - began < 0.05  # who asks again and again uses all of that second
    with ThreadPoolExecutor(1) as pool:
        woken = pool.submit(poller.wait, 30)
        wait_until(woken.running, deadline_seconds=60, what="the listener to wait")
        notices.announce(Topic.ROWS)
        assert woken.result(timeout=60)
    poller.close()


def test_listeners_and_announcers_that_are_killed_leave_the_pipe_as_it_was(notices: Notices) -> None:
    poller = notices.listen(Topic.ROWS)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            _listens_and_announces(notices)
        assert poller.wait(60)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        poller.wait(0)
        assert not poller.wait(0)
    notices.announce(Topic.ROWS)
    assert poller.wait(0)
    poller.close()


def _listens_and_announces(notices: Notices) -> NoReturn:
    try:
        notices.listen(Topic.ROWS)
        while True:
            notices.announce(Topic.ROWS)
    finally:
        os._exit(1)


def test_what_is_no_pipe_is_not_listened_to(notices: Notices, tmp_path: Path) -> None:
    (tmp_path / "tasks.db-rows-pipe").touch()
    with pytest.raises(NotListening):
        notices.listen(Topic.ROWS)
    notices.announce(Topic.ROWS)
