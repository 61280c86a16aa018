"""Signing in with a token, what a session may do, and the admin page's switches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from app.tasks.model import Priority, Status
from app.tasks.routing import Intake
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack, Web
from tests.browser.conftest import NewVisit
from tests.waiting import wait_until

ADMIN = "admin-token-of-a-test"
SUBMITTER = "api-token-of-a-test"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Web]]:
    """An installation with tokens, in database mode, with its workers inside."""
    folder = tmp_path_factory.mktemp("guarded")
    stack = Stack(
        folder,
        f"sqlite:///{folder / 'tasks.db'}",
        None,
        RQ_ENABLED="false",
        RQ_WORKER_COUNT=1,
        ADMIN_TOKEN=ADMIN,
        API_TOKEN=SUBMITTER,
        LOG_LEVEL="warning",
    )
    yield stack, stack.start_web()
    stack.close()


@pytest.fixture
def signed_in(guarded: tuple[Stack, Web], new_visit: NewVisit) -> Page:
    """The admin page, signed in as an admin."""
    visit = new_visit(url=guarded[1].url)
    sign_in(visit.page, guarded[1], ADMIN, "/admin/")
    return visit.page


def sign_in(page: Page, web: Web, token: str, path: str = "/") -> None:
    page.goto(f"{web.url}/login?next={path}")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(web.url + path)


def test_a_visitor_without_a_session_is_asked_for_a_token(
    guarded: tuple[Stack, Web], new_visit: NewVisit
) -> None:
    page = new_visit(url=guarded[1].url).open("/")
    expect(page.get_by_label("Token")).to_be_focused()


def test_a_wrong_token_is_said_beside_the_field(guarded: tuple[Stack, Web], new_visit: NewVisit) -> None:
    page = new_visit(url=guarded[1].url).open("/login")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#token-problem")).to_have_text("This token is not valid.")
    expect(page.get_by_label("Token")).to_have_attribute("aria-invalid", "true")


def test_a_submitter_sends_pictures_with_the_sessions_token_and_has_no_admin_link(
    guarded: tuple[Stack, Web], new_visit: NewVisit, pictures: Path
) -> None:
    page = new_visit(url=guarded[1].url).page
    sign_in(page, guarded[1], SUBMITTER)
    page.locator("#files").set_input_files(pictures / "sample-balloons.png")
    expect(page.locator(".yours-card .status")).to_have_text("Completed")
    expect(page.get_by_role("link", name="Admin")).to_have_count(0)
    page.goto(f"{guarded[1].url}/admin/")
    expect(page.locator(".status-number")).to_have_text("403")
    page.goto(f"{guarded[1].url}/")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Token")).to_be_visible()


def test_a_session_that_has_ended_is_told_on_the_open_page(
    guarded: tuple[Stack, Web], new_visit: NewVisit
) -> None:
    page = new_visit(url=guarded[1].url).page
    sign_in(page, guarded[1], SUBMITTER)
    expect(page.locator(".pulse")).to_be_visible()
    page.context.clear_cookies()
    page.wait_for_timeout(300)  # an answer that was under way brings the cookie back
    page.context.clear_cookies()
    expect(page.locator(".notice.serious")).to_contain_text("You are signed out.")
    expect(page.get_by_role("link", name="Sign in")).to_have_attribute("href", "/login?next=/")


def test_a_queue_is_paused_resumed_and_cleared_from_the_admin_page(
    guarded: tuple[Stack, Web], signed_in: Page
) -> None:
    stack, _ = guarded
    signed_in.get_by_role("button", name="Pause low").click()
    expect(signed_in.get_by_role("button", name="Resume low")).to_be_visible()
    assert stack.system.store.routing.refresh()[Priority.LOW].paused
    stack.system.queue.submit_many(TaskRequest("test.noop", priority=Priority.LOW) for _ in range(3))
    signed_in.get_by_role("button", name="Cancel all that waits in low").click()
    question = signed_in.get_by_role("dialog")
    question.get_by_role("button", name="Keep").click()
    assert stack.count(Status.CANCELLED) == 0
    signed_in.get_by_role("button", name="Cancel all that waits in low").click()
    question.get_by_role("button", name="Cancel them").click()
    wait_until(lambda: stack.count(Status.CANCELLED) == 3, deadline_seconds=60, what="three cancels")
    signed_in.get_by_role("button", name="Resume low").click()
    expect(signed_in.get_by_role("button", name="Pause low")).to_be_visible()
    assert not stack.system.store.routing.refresh()[Priority.LOW].paused


def test_submission_is_paused_with_a_reason_and_resumed(guarded: tuple[Stack, Web], signed_in: Page) -> None:
    routing = guarded[0].system.store.routing
    signed_in.get_by_label("Reason").fill("moving house")
    signed_in.get_by_label("For how long").fill("half a moon")
    signed_in.get_by_role("button", name="Pause submission").click()
    expect(signed_in.locator("#pause-error")).to_contain_text("duration")
    signed_in.get_by_label("For how long").fill("2 hours")
    signed_in.get_by_role("button", name="Pause submission").click()
    expect(signed_in.locator("#submission-state")).to_contain_text("moving house")
    assert routing.refresh()[Priority.NORMAL].intake is Intake.HOLD
    signed_in.get_by_role("button", name="Resume submission").click()
    expect(signed_in.locator("#submission-state")).to_have_text("Open")
    assert routing.refresh()[Priority.NORMAL].intake is Intake.OPEN


def test_dead_letters_are_retried_one_by_one_and_deleted(guarded: tuple[Stack, Web], signed_in: Page) -> None:
    queue = guarded[0].system.queue
    for _ in range(2):
        queue.submit(TaskRequest("test.fail", {"times": 9, "permanent": True, "message": "it is broken"}))
    letters = signed_in.locator("#dead li")
    expect(letters).to_have_count(2)
    expect(letters.first).to_contain_text("it is broken")
    letters.first.get_by_role("button", name="Retry").click()
    expect(letters.first).to_contain_text("attempt 2")
    signed_in.get_by_role("button", name="Delete all…").click()
    signed_in.get_by_role("dialog").get_by_role("button", name="Delete them").click()
    expect(signed_in.locator("#no-dead")).to_be_visible()


def test_the_admin_page_lists_workers_and_addresses(signed_in: Page) -> None:
    expect(signed_in.locator("#workers tr")).to_have_count(1)
    expect(signed_in.locator(".endpoints")).to_contain_text("/admin/maintenance/pause-task-submission")
    expect(signed_in.locator("#routing-form input")).to_be_disabled()
