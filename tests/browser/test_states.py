"""What the page says when something is away, paused or lost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import expect

from app.tasks.model import PRIORITIES, Priority
from app.tasks.routing import Intake
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack, Web
from tests.browser.conftest import NewVisit, Visit
from tests.servers import RedisServer
from tests.waiting import wait_until


@pytest.fixture
def quiet(installation: Stack) -> Iterator[Stack]:
    """The installation; its switches are as before when the test ends."""
    yield installation
    queue = installation.system.queue
    for priority in PRIORITIES:
        queue.clear(priority)
    queue.resume()
    queue.resume_intake()


@pytest.fixture(scope="module")
def unstaffed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Web]]:
    """A new installation in database mode, without workers."""
    folder = tmp_path_factory.mktemp("unstaffed")
    database_url = f"sqlite:///{folder / 'tasks.db'}"
    stack = Stack(folder, database_url, None, RQ_ENABLED="false", RQ_WORKER_MODE="external")
    yield stack, stack.start_web()
    stack.close()


def test_the_first_visit_teaches_the_first_step(new_visit: NewVisit, unstaffed: tuple[Stack, Web]) -> None:
    page = new_visit(url=unstaffed[1].url).open()
    expect(page.locator("#empty")).to_contain_text("Drop a picture into “New task”")
    expect(page.locator("#notices")).to_contain_text("python -m workers")
    expect(page.locator(".band.redis .band-note")).to_have_text("not in use: database mode")


def test_without_workers_the_page_says_who_waits_and_how_to_start_some(
    new_visit: NewVisit, unstaffed: tuple[Stack, Web]
) -> None:
    unstaffed[0].system.queue.submit_many(TaskRequest("test.noop") for _ in range(3))
    page = new_visit(url=unstaffed[1].url).open()
    notice = page.locator(".notice.serious")
    expect(notice).to_contain_text("No worker is running. 3 tasks wait for one.")
    expect(notice.get_by_role("button", name="Copy the command")).to_be_visible()
    expect(page.locator(".slot.absent")).to_have_count(2)


def test_a_paused_queue_is_told_and_its_signal_stands_at_stop(visit: Visit, quiet: Stack) -> None:
    quiet.system.queue.pause([Priority.NORMAL, Priority.LOW])
    page = visit.open()
    expect(page.locator("#notices")).to_contain_text("Normal and low are paused.")
    expect(page.locator(".signal.paused")).to_have_count(4)
    quiet.system.queue.resume()
    expect(page.locator("#notices")).not_to_contain_text("paused")
    expect(page.locator(".signal.paused")).to_have_count(0)


def test_held_submission_is_told_with_its_reason_and_end(visit: Visit, quiet: Stack) -> None:
    quiet.system.queue.pause_intake(reason="moving house", duration=timedelta(hours=2))
    page = visit.open()
    notice = page.locator(".notice", has_text="Submission is paused: moving house.")
    expect(notice).to_contain_text("accepted and held")
    expect(notice).to_contain_text("Until")
    page.locator(".sample", has_text="Echo").click()
    expect(page.locator(".yours-card .status")).to_have_text("Held")
    expect(page.locator(".lane.siding .lane-figure")).to_have_text("1")


def test_refused_submission_is_said_beside_the_button(visit: Visit, quiet: Stack) -> None:
    quiet.system.queue.pause_intake(reason="moving house", mode=Intake.REFUSE)
    page = visit.open()
    expect(page.locator(".notice.serious")).to_contain_text("New tasks are refused.")
    page.locator(".sample", has_text="Echo").click()
    expect(page.locator("#sample-error")).to_contain_text("moving house")
    expect(page.locator(".yours-card")).to_have_count(0)


def test_a_lost_server_is_told_and_the_page_comes_back_by_itself(visit: Visit, quiet: Stack) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    page.context.set_offline(True)
    expect(page.locator(".notice.serious")).to_contain_text("The connection to the server is lost")
    expect(page.locator("#tracks")).to_have_class("drawing frozen")
    page.context.set_offline(False)
    expect(page.locator("#notices")).not_to_contain_text("lost", timeout=60_000)
    expect(page.locator("#tracks")).to_have_class("drawing")


def test_a_database_that_is_away_is_told_in_the_servers_words(visit: Visit, quiet: Stack) -> None:
    problem = {
        "title": "The database does not answer",
        "detail": "Nothing was half-done; try again.",
        "status": 503,
    }
    page = visit.page
    page.route("**/api/overview", lambda route: route.fulfill(status=503, json=problem))
    page.route("**/api/tasks?*", lambda route: route.fulfill(status=503, json=problem))
    visit.open()
    expect(page.locator(".notice.serious")).to_contain_text("The database does not answer.")
    expect(page.locator(".notice.serious")).to_contain_text("the page keeps trying")


def test_an_outage_of_redis_is_told_from_its_beginning_to_its_end(
    visit: Visit, quiet: Stack, workers: None, page_redis: RedisServer
) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    page_redis.stop()
    try:
        expect(page.locator("#notices")).to_contain_text("Redis does not answer.")
        expect(page.locator(".band.redis")).to_have_class("band redis away")
        expect(page.locator("#notices")).to_contain_text("the database has taken over", timeout=60_000)
        page.locator(".sample", has_text="Echo").click()
        expect(page.locator(".yours-card .status")).to_have_text("Completed", timeout=60_000)
    finally:
        page_redis.start()
    expect(page.locator("#notices")).to_be_empty(timeout=60_000)
    wait_until(
        lambda: not any(route.fallback for route in quiet.system.store.routing.refresh().values()),
        deadline_seconds=60,
        what="the end of the fallback",
    )
