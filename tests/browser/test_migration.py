"""The migration page: nothing yet, a procedure with its verbs, and the typed word before the grave ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.transfer.procedure import verbs
from app.transfer.procedure.plan import Choices, make_procedure_plan
from app.transfer.procedure.records import ProcedureRecords, State
from tests.acceptance.stack import Stack
from tests.browser.conftest import NewVisit, Visit
from tests.waiting import wait_until


@pytest.fixture
def procedures(installation: Stack) -> ProcedureRecords:
    return ProcedureRecords(installation.system.store.database)


@pytest.fixture
def begun(installation: Stack, procedures: ProcedureRecords, tmp_path: Path) -> Iterator[int]:
    """A procedure that this process holds, and does not run."""
    plan = make_procedure_plan(installation.system, Choices(history=str(tmp_path / "history.md")))
    found = procedures.latest((State.RUNNING, State.PAUSED, State.STOPPED))
    if found is not None:
        procedures.abort(found.procedure_id, reason="of another test")
    yield verbs.begin(installation.system, plan, confirmed=plan.hash).procedure_id
    installation.system.queue.route(redis_percent=50)  # as the other tests have it


def test_a_procedure_is_paused_resumed_and_aborted_with_a_typed_word(
    visit: Visit, begun: int, procedures: ProcedureRecords
) -> None:
    page = visit.open("/admin/migration")
    expect(page.locator("#run-state")).to_contain_text(f"Procedure {begun} · running")
    expect(page.locator("#way li[aria-current]")).to_contain_text("prepare")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#run-state")).to_contain_text("paused")
    assert procedures.get(begun).state is State.PAUSED
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#run-state")).to_contain_text("running")

    page.get_by_role("button", name="Abort").click()
    question = page.get_by_role("dialog")
    sure = question.get_by_role("button", name="abort", exact=True)
    expect(sure).to_be_disabled()
    page.keyboard.type("abor")
    expect(sure).to_be_disabled()
    page.keyboard.press("Escape")
    assert procedures.get(begun).state is State.RUNNING
    page.get_by_role("button", name="Abort").click()
    page.keyboard.type("abort")
    page.keyboard.press("Enter")
    expect(page.locator("#run-state")).to_contain_text("aborted")
    expect(page.locator("#stop-reason")).to_contain_text("aborted on the page")


def test_a_rollback_is_begun_by_its_word_and_done_by_a_process_of_its_own(
    visit: Visit, begun: int, procedures: ProcedureRecords
) -> None:
    page = visit.open("/admin/migration")
    page.get_by_role("button", name="Roll back").click()
    page.keyboard.type("rollback")
    page.get_by_role("dialog").get_by_role("button", name="rollback", exact=True).click()
    wait_until(
        lambda: procedures.get(begun).state is State.ROLLED_BACK,
        deadline_seconds=120,
        what=lambda: f"the rollback; {procedures.get(begun)}",
    )
    expect(page.locator("#run-state")).to_contain_text("rolled back", timeout=60_000)
    expect(page.locator("#checklist")).to_contain_text("Every waiting row is back")
    expect(page.locator("#reports a").first).to_have_attribute(
        "href", f"/admin/migration/reports/{begun}/rollback.html"
    )


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_fits_wide_and_narrow(new_visit: NewVisit, begun: int, width: int, scheme: str) -> None:
    page = new_visit(width=width, scheme=scheme).open("/admin/migration")
    expect(page.locator("#run-state")).to_contain_text(f"Procedure {begun}")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
