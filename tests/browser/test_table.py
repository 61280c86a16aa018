"""The table of tasks and the panel of one, with a pointer and with keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from app.tasks.model import Priority, Status
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack
from tests.browser.conftest import Visit
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("workers")


@pytest.fixture
def low_is_paused(installation: Stack) -> Iterator[Stack]:
    """Tasks of low priority wait until the test ends."""
    queue = installation.system.queue
    queue.pause([Priority.LOW])
    yield installation
    queue.clear(Priority.LOW)
    queue.resume([Priority.LOW])


def waiting_task(stack: Stack) -> str:
    request = TaskRequest("test.echo", {"note": "waits"}, priority=Priority.LOW)
    return str(stack.system.queue.submit(request).task_id)


def status_of(stack: Stack, task_id: str) -> Status:
    return stack.system.store.queries.task(int(task_id)).status


def test_a_waiting_task_is_cancelled_and_retried_from_its_row(visit: Visit, low_is_paused: Stack) -> None:
    task_id = waiting_task(low_is_paused)
    page = visit.open()
    line = page.locator("#rows tr", has_text=f"…{task_id[-6:]}")
    line.get_by_role("button", name="Cancel").click()
    expect(line.locator(".status")).to_have_text("Cancelled")
    line.get_by_role("button", name="Retry").click()
    expect(line.get_by_role("button", name="Cancel")).to_be_visible()
    assert status_of(low_is_paused, task_id) in (Status.DISPATCHED, Status.QUEUED)


def test_another_priority_sets_a_waiting_task_free(visit: Visit, low_is_paused: Stack) -> None:
    task_id = waiting_task(low_is_paused)
    page = visit.open()
    line = page.locator("#rows tr", has_text=f"…{task_id[-6:]}")
    line.get_by_label("Priority of test.echo").select_option("urgent")
    expect(line.locator(".status")).to_have_text("Completed")
    expect(line.locator(".cell-priority")).to_have_text("urgent")


def test_a_refused_verb_says_why_in_its_row(visit: Visit, low_is_paused: Stack) -> None:
    task_id = waiting_task(low_is_paused)
    page = visit.open()
    line = page.locator("#rows tr", has_text=f"…{task_id[-6:]}")
    expect(line.get_by_role("button", name="Cancel")).to_be_visible()
    refusal = {"title": "The task's state does not allow this", "detail": "cannot cancel it: it is COMPLETED"}
    page.route("**/cancel", lambda route: route.fulfill(status=409, json=refusal))
    line.get_by_role("button", name="Cancel").click()
    expect(line.locator(".beside-error")).to_have_text("cannot cancel it: it is COMPLETED")


def test_the_filter_shows_one_status_and_its_number(visit: Visit, low_is_paused: Stack) -> None:
    task_id = waiting_task(low_is_paused)
    low_is_paused.system.queue.cancel(int(task_id))
    number = low_is_paused.count(Status.CANCELLED)
    page = visit.open()
    chip = page.locator(".chip", has_text="Cancelled")
    expect(chip.locator(".chip-number")).to_have_text(str(number))
    chip.click()
    expect(page.locator("#rows .status", has_not_text="Cancelled")).to_have_count(0)
    expect(page.locator("#rows .status").first).to_have_text("Cancelled")
    page.locator(".chip", has_text="Quarantined").click()
    expect(page.locator("#empty")).to_have_text("No task is quarantined.")


def test_older_tasks_are_a_page_away(visit: Visit, low_is_paused: Stack) -> None:
    low_is_paused.system.queue.submit_many(TaskRequest("test.noop", priority=Priority.LOW) for _ in range(40))
    page = visit.open()
    expect(page.locator("#rows tr")).to_have_count(25)
    first = page.locator("#rows .row-id").first.inner_text()
    page.get_by_role("button", name="Older").click()
    expect(page.locator("#rows .row-id").first).not_to_have_text(first)
    page.get_by_role("button", name="Newest").click()
    expect(page.locator("#rows .row-id").first).to_have_text(first)


def test_the_panel_tells_payload_error_and_what_happened(visit: Visit, installation: Stack) -> None:
    request = TaskRequest("test.fail", {"times": 1, "message": "it broke once"}, priority=Priority.URGENT)
    task_id = installation.system.queue.submit(request).task_id
    wait_until(
        lambda: installation.system.store.queries.task(task_id).status is Status.COMPLETED,
        deadline_seconds=60,
        what="the second attempt",
    )
    page = visit.open(f"/#task-{task_id}")
    panel = page.get_by_role("dialog")
    expect(panel.get_by_role("heading", name="test.fail")).to_be_visible()
    for text in ("it broke once", "succeeded_at_attempt", "2, 1 failed", "retry"):
        expect(panel).to_contain_text(text)


def test_the_panel_follows_a_running_task_and_can_stop_it(visit: Visit, installation: Stack) -> None:
    request = TaskRequest("test.sleep", {"seconds": 60, "steps": 200}, priority=Priority.URGENT)
    task_id = installation.system.queue.submit(request).task_id
    page = visit.open(f"/#task-{task_id}")
    panel = page.get_by_role("dialog")
    expect(panel.get_by_role("progressbar")).to_be_visible()
    expect(panel.locator(".sheet-progress")).to_contain_text(re.compile(r"step \d+ of 200"))
    panel.get_by_role("button", name="Cancel").click()
    expect(panel.locator(".status")).to_have_text("Cancelled")


def test_a_task_that_does_not_exist_is_said_in_the_panel(visit: Visit) -> None:
    page = visit.open("/#task-42")
    expect(page.get_by_role("dialog")).to_contain_text("no task has the id")


def test_everything_works_with_keys_alone(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    tab_to(page, 'input[name="priority"]:checked')
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="high")).to_be_checked()
    tab_to(page, '.sample[data-name="test.echo"]')
    page.keyboard.press("Enter")
    expect(page.locator(".yours-card .status")).to_have_text("Completed")
    expect(page.locator("#rows .row-name").first).to_have_text("test.echo")
    tab_to(page, ".row-name")
    page.keyboard.press("Enter")
    panel = page.get_by_role("dialog")
    expect(panel.get_by_role("heading", name="test.echo")).to_be_visible()
    expect(panel).to_contain_text("high")
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    assert page.evaluate("document.activeElement.className") == "row-name"


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the element has the focus, and see that the focus can be seen on the way."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        assert page.evaluate(FOCUS_IS_VISIBLE), page.evaluate("document.activeElement.outerHTML")
    raise AssertionError(f"{selector} was not reached with Tab")


FOCUS_IS_VISIBLE = """() => {
  const focused = document.activeElement;
  if (focused === document.body) return true;
  const faces = [focused, focused.nextElementSibling, focused.closest("label")].filter(Boolean);
  return faces.some((face) => getComputedStyle(face).outlineStyle !== "none");
}"""
