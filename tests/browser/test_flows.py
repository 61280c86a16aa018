"""The flows page: a deployment is started, a run is drawn by phases and over time, and cancelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect
from sqlalchemy import text

from app.distributed.deployments import Deployment, Deployments
from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack
from tests.browser.conftest import NewVisit, Visit


@pytest.fixture
def run(installation: Stack) -> int:
    """A task with two children in one phase and one in the next, none of which any worker may take."""
    later = datetime.now(UTC) + timedelta(days=1)
    submitted = installation.system.queue.submit_many([TaskRequest("test.noop", run_at=later)] * 4)
    parent, *children = [one.task_id for one in submitted if not isinstance(one, Exception)]
    names = [("tables", "orders"), ("tables", "items"), ("cleanups", "cleanup 1")]
    with installation.system.store.database.engine.begin() as on:
        on.execute(
            text("INSERT INTO parents (task_id, created_at) VALUES (:id, CURRENT_TIMESTAMP)"), {"id": parent}
        )
        rows = [
            {"id": child, "parent": parent, "phase": phase, "name": name}
            for child, (phase, name) in zip(children, names, strict=True)
        ]
        columns = "(task_id, parent_id, phase, name, admitted)"
        on.execute(text(f"INSERT INTO children {columns} VALUES (:id, :parent, :phase, :name, 1)"), rows)
        done = "UPDATE tasks SET status = 'COMPLETED', run_at = NULL, started_at = created_at,"
        on.execute(text(f"{done} ended_at = created_at WHERE id = :id"), {"id": children[0]})
    return parent


def test_a_run_is_drawn_by_phases_and_cancelled(visit: Visit, installation: Stack, run: int) -> None:
    page = visit.open("/admin/flows")
    page.locator(f'#runs a[href="#run-{run}"]').click()
    expect(page.locator("#run-title")).to_have_text(f"test.noop, run {run}")
    expect(page.locator("#run-figures")).to_have_text("2 scheduled · 1 completed")
    tables = page.get_by_role("region", name="Phase tables")
    expect(tables.locator(".box")).to_have_count(2)
    expect(tables.locator(".box.good")).to_contain_text("orders")
    expect(page.get_by_role("region", name="Phase cleanups").locator(".box")).to_contain_text("cleanup 1")
    expect(page.locator("#time-line li")).to_have_count(1)

    page.get_by_role("button", name="Cancel the run").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    expect(page.locator("#run-state")).to_contain_text("Cancelled")
    assert installation.system.store.queries.task(run).status is Status.CANCELLED
    expect(page.get_by_role("button", name="Cancel the run")).to_be_hidden()


def test_a_deployment_is_started_with_the_payload_in_the_field(visit: Visit, installation: Stack) -> None:
    Deployments(installation.system).put([Deployment("nightly", "test.noop", {"n": 1})])
    page = visit.open("/admin/flows")
    expect(page.locator("#payload")).to_have_value('{"n":1}')
    page.locator("#payload").fill("{")
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#start-error")).to_have_text("The payload is no JSON.")
    page.locator("#payload").fill('{"n": 2}')
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#run-title")).to_contain_text("test.noop, run")
    number = int(page.evaluate("location.hash").removeprefix("#run-"))
    assert installation.system.store.queries.task(number).payload == {"n": 2}


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_flows_page_fits_wide_and_narrow(new_visit: NewVisit, run: int, width: int, scheme: str) -> None:
    page = new_visit(width=width, scheme=scheme).open(f"/admin/flows#run-{run}")
    expect(page.locator("#run-title")).to_contain_text(f"run {run}")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
