"""The schedules page: make one, see it run, pause it, delete it."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from app.tasks.model import ScheduleState
from app.tasks.schedule_requests import ScheduleRequest
from tests.acceptance.stack import Stack
from tests.browser.conftest import NewVisit, Visit

pytestmark = pytest.mark.usefixtures("workers")


def test_a_schedule_is_made_run_paused_and_deleted(visit: Visit, installation: Stack) -> None:
    page = visit.open("/admin/schedules")
    page.get_by_label("Name").fill("tidy-up")
    page.get_by_label("Task").select_option("test.echo")
    page.get_by_label("Cron expression").fill("0 6 * *")
    page.get_by_role("button", name="Make the schedule").click()
    expect(page.locator("#new-error")).to_contain_text("cron: must be five fields")
    page.get_by_label("Cron expression").fill("0 6 * * 1-5")
    page.get_by_label("Time zone").fill("Europe/Berlin")
    page.get_by_label("Payload").fill('{"rooms": 3}')
    page.get_by_role("button", name="Make the schedule").click()
    row = page.locator(".schedule", has_text="tidy-up")
    expect(row).to_contain_text("0 6 * * 1-5 Europe/Berlin")
    expect(row).to_contain_text("has not run yet")

    row.get_by_role("button", name="Run tidy-up now").click()
    expect(row.locator(".schedule-last")).to_contain_text("Completed")
    row.get_by_role("button", name="Pause tidy-up").click()
    expect(row.locator(".status").first).to_have_text("Paused")
    assert installation.system.queue.schedules.get("tidy-up").state is ScheduleState.PAUSED
    row.get_by_role("button", name="Resume tidy-up").click()
    expect(row.locator(".status").first).to_have_text("Active")

    row.get_by_role("button", name="Delete tidy-up").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete it").click()
    expect(row).to_have_count(0)
    expect(page.locator("#no-schedules")).to_be_visible()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_no_schedule_runs_over_the_edge_of_the_page(
    new_visit: NewVisit, installation: Stack, width: int, scheme: str
) -> None:
    name = f"a-name-that-is-as-long-as-a-name-may-be-{width}-{'x' * 34}"
    installation.system.queue.schedules.create(
        ScheduleRequest(name, "test.noop", cron="0,15,30,45 0-23 * * *", time_zone="America/Argentina/Salta")
    )
    page = new_visit(width=width, scheme=scheme).open("/admin/schedules")
    expect(page.locator(".schedule", has_text=name)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    installation.system.queue.schedules.remove(name)
