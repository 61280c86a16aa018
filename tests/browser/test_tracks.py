"""The drawing says what the figures say, and costs little."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from app.tasks.model import PRIORITIES, Priority
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack, Web
from tests.browser.conftest import NewVisit, Visit
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("workers")

# What stands in a lane: its figure, its wagons, the length of its bars in pixels.
LANES = """() => Object.fromEntries(["redis", "database"].map((track) => [track,
  Object.fromEntries([...document.querySelectorAll(`.band.${track} .lane`)].map((lane) => [
    lane.querySelector(".lane-name").textContent,
    {
      figure: lane.querySelector(".lane-figure").textContent,
      wagons: lane.querySelectorAll(".wagon").length,
      hollow: lane.querySelectorAll(".wagon.hollow").length,
      bar: [...lane.querySelectorAll(".bar")].filter((bar) => bar.style.visibility === "visible")
        .reduce((sum, bar) => sum + parseFloat(bar.style.width), 0),
    },
  ]))]))"""


@pytest.fixture
def still(installation: Stack) -> Iterator[Stack]:
    """An installation in which everything waits until the test ends."""
    queue = installation.system.queue
    queue.pause()
    yield installation
    for priority in PRIORITIES:
        queue.clear(priority)
    queue.resume()


def submit(stack: Stack, number: int, priority: Priority) -> None:
    stack.system.queue.submit_many(TaskRequest("test.noop", priority=priority) for _ in range(number))


def overview(web: Web) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{web.url}/api/overview", timeout=60).json()
    return answer


def waiting(web: Web, track: str, priority: str) -> int:
    status = {"redis": "DISPATCHED", "database": "QUEUED"}[track]
    return int(overview(web)["counts"][status][priority])


def drawn(page: Page, total: int) -> dict[str, dict[str, dict[str, Any]]]:
    """The lanes once the page speaks of `total` waiting tasks."""
    expect(page.locator("#tracks-aside")).to_contain_text(f"{total:,} waiting")
    lanes: dict[str, dict[str, dict[str, Any]]] = page.evaluate(LANES)
    return lanes


def test_each_waiting_task_is_one_wagon_in_the_lane_of_its_track_and_priority(
    visit: Visit, still: Stack, web: Web
) -> None:
    for number, priority in enumerate(PRIORITIES, start=2):
        submit(still, number, priority)
    lanes = drawn(visit.open(), 14)
    for track in ("redis", "database"):
        for priority in PRIORITIES:
            number = waiting(web, track, priority)
            lane = lanes[track][priority]
            assert (lane["figure"], lane["wagons"]) == (str(number), number)


def test_thousands_are_drawn_as_lengths_on_one_scale(visit: Visit, still: Stack, web: Web) -> None:
    submit(still, 3000, Priority.NORMAL)
    submit(still, 600, Priority.LOW)
    page = visit.open()
    lanes = drawn(page, 3600)
    scale = 2000
    expect(page.locator("#tracks-legend")).to_contain_text(f"A full lane is {scale:,} tasks")
    assert page.locator(".lane .wagon").count() == 0
    longest = lanes["redis"]["normal"]["bar"] / waiting(web, "redis", "normal")
    for track in ("redis", "database"):
        for priority in ("normal", "low"):
            lane = lanes[track][priority]
            assert lane["bar"] / waiting(web, track, priority) == pytest.approx(longest, rel=0.05)
            assert lane["figure"] == f"{waiting(web, track, priority):,}"


def test_a_row_without_a_ticket_is_a_hollow_wagon(visit: Visit, still: Stack, web: Web) -> None:
    submit(still, 12, Priority.HIGH)
    page = visit.open()
    lane = drawn(page, 12)["redis"]["high"]
    assert lane["wagons"] > 0
    assert still.system.tickets is not None
    still.system.tickets.clear(Priority.HIGH)
    # No ticket is pushed for a paused queue, so the rows stay without.
    expect(page.locator(".band.redis .wagon.hollow")).to_have_count(lane["wagons"])
    expect(page.locator("#tracks-legend")).to_contain_text("has no ticket in Redis")


def test_a_running_task_stands_in_its_workers_place_and_opens_from_there(
    visit: Visit, installation: Stack
) -> None:
    request = TaskRequest("test.sleep", {"seconds": 20, "steps": 40}, priority=Priority.URGENT)
    task_id = installation.system.queue.submit(request).task_id
    page = visit.open()
    slot = page.locator(".slot.busy")
    expect(slot).to_have_count(1)
    expect(slot.locator(".slot-text")).to_have_text("test.sleep")
    slot.locator(".slot-box").click()
    expect(page.get_by_role("dialog")).to_contain_text(str(task_id))
    installation.system.queue.cancel(task_id)
    expect(page.locator(".slot.busy")).to_have_count(0)


def test_a_worker_whose_task_is_not_named_is_busy_by_its_own_word(visit: Visit, web: Web) -> None:
    figures = overview(web)
    figures["tasks"] = []
    figures["counts"]["PROCESSING"]["low"] = 900
    for worker in figures["workers"]:
        worker["state"] = "busy" if worker["track"] == "redis" else "idle"
    visit.page.route("**/api/overview", lambda route: route.fulfill(json=figures))
    page = visit.open()
    expect(page.locator(".band.redis .slot.busy")).to_have_count(2)
    expect(page.locator(".band.redis .slot-text").first).to_have_text("busy")
    expect(page.locator(".band.database .slot.busy")).to_have_count(0)


def test_twelve_workers_stand_in_a_yard(visit: Visit, web: Web) -> None:
    figures = overview(web)
    one = next(worker for worker in figures["workers"] if worker["track"] == "redis")
    figures["workers"] = [{**one, "id": f"worker {number}"} for number in range(12)]
    visit.page.route("**/api/overview", lambda route: route.fulfill(json=figures))
    page = visit.open()
    expect(page.locator(".band.redis .yard")).to_have_count(1)
    expect(page.locator(".band.redis .slot.idle")).to_have_count(12)
    page.set_viewport_size({"width": 360, "height": 800})
    expect(page.locator(".band.redis .slot-more").last).to_have_text("+5")
    expect(page.locator(".band.database .slot.absent")).to_have_count(1)


def test_wagons_travel_for_tasks_that_moved_and_for_nothing_else(
    visit: Visit, installation: Stack, workers: None
) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    count_travellers(page)
    wait_until(lambda: page.evaluate("window.polls >= 3"), deadline_seconds=60, what="three quiet polls")
    assert page.evaluate("window.travelled") == 0
    installation.system.queue.submit(TaskRequest("test.echo", 1, priority=Priority.URGENT))
    page.wait_for_function("() => window.travelled === 1")


def test_who_wants_no_motion_gets_the_figures_alone(new_visit: NewVisit, installation: Stack) -> None:
    page = new_visit(reduced_motion="reduce").open()
    expect(page.locator(".pulse")).to_be_visible()
    count_travellers(page)
    before = int((page.locator(".end-total").text_content() or "").replace(",", ""))
    installation.system.queue.submit(TaskRequest("test.echo", 1))
    expect(page.locator(".end-total")).to_have_text(f"{before + 1:,}")
    assert page.evaluate("window.travelled") == 0


def count_travellers(page: Page) -> None:
    page.evaluate(
        """() => {
          window.travelled = 0;
          window.polls = 0;
          const count = (changes) => {
            for (const change of changes) window.travelled += change.addedNodes.length;
          };
          new MutationObserver(count).observe(document.querySelector(".travellers"), { childList: true });
          new PerformanceObserver((list) => { window.polls += list.getEntries()
            .filter((entry) => entry.name.includes("/api/overview")).length; }).observe({ type: "resource" });
        }"""
    )


def test_an_idle_page_asks_once_a_second_and_hardly_works(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    asked: list[str] = []
    page.wait_for_timeout(1500)
    page.on("request", lambda request: asked.append(request.url))
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = busy_seconds(session)
    began = time.monotonic()
    page.wait_for_timeout(5000)
    while len(asked) < 3:
        page.wait_for_event("request")  # a busy machine answers more slowly, and is asked again after that
    seconds = time.monotonic() - began
    assert all("/api/overview" in url for url in asked), asked
    assert len(asked) <= seconds + 1
    assert busy_seconds(session) - before < 0.1 * seconds


def busy_seconds(session: Any) -> float:
    """Processor time of the page's thread, whoever else keeps the machine busy."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(float(metric["value"]) for metric in metrics if metric["name"] == "TaskDuration")


def test_a_page_that_nobody_sees_asks_for_nothing(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".pulse")).to_be_visible()
    hide(page, hidden=True)
    page.wait_for_timeout(1200)  # a request that was under way may still end
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)
    assert asked == []
    with page.expect_request("**/api/overview", timeout=60_000):
        hide(page, hidden=False)


def hide(page: Page, *, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_the_history_speaks_of_a_moment_that_is_pointed_at(visit: Visit) -> None:
    page = visit.open()
    readout = page.locator("#plot-readout")
    expect(readout).to_contain_text("ended per second")
    plot = page.locator("#plot svg")
    plot.focus()
    page.keyboard.press("ArrowLeft")
    expect(plot.locator(".cursor")).to_have_count(1)
    expect(readout).to_contain_text(":")
    assert "waiting" in (plot.get_attribute("aria-label") or "")
