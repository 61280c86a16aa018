"""Every page in both themes, wide and narrow: nothing overflows, everything can be read and is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from app.tasks.model import Priority
from app.tasks.submission import TaskRequest
from tests.acceptance.stack import Stack
from tests.browser.conftest import NewVisit, Visit
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("workers")

PAGES = ("/", "/admin/", "/login", "/nothing-is-here")
LEAST_CONTRAST = 4.5
LEAST_CONTRAST_OF_LARGE_TEXT = 3.0

# Text that can be seen, with its colour, the ground it stands on (as painted) and its size.
TEXTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (rgba(style.backgroundColor)[3] === 255) return rgba(style.backgroundColor);
    }
    return rgba(getComputedStyle(document.documentElement).backgroundColor);
  };
  const behind = (text) => {
    const box = text.closest(".slot, .end")?.querySelector("rect");
    const fill = box && rgba(getComputedStyle(box).fill);
    return fill && fill[3] === 255 ? fill : ground(text.closest("svg").parentElement);
  };
  const seen = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.textContent.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".unseen, .skip, :disabled, noscript, title")) continue;
    const style = getComputedStyle(element);
    const drawn = element instanceof SVGElement;
    seen.push({
      text: node.textContent.trim().slice(0, 40),
      where: `${element.tagName}.${element.getAttribute("class") ?? ""}`,
      colour: rgba(drawn ? style.fill : style.color),
      ground: drawn ? behind(element) : ground(element),
      pixels: parseFloat(style.fontSize),
      bold: Number(style.fontWeight) >= 700,
    });
  }
  return seen;
}"""

CONTROLS = (
    "button, a[href], input:not([type=hidden]), select, textarea, [role=img], [role=region], dialog[open]"
)
UNNAMED = """(controls) => {
  const byIds = (ids) => ids.split(" ").map((id) => document.getElementById(id)?.textContent);
  const words = (element) => [
    element.getAttribute("aria-label"), element.textContent, element.title,
    ...[...(element.labels ?? [])].map((label) => label.textContent),
    ...byIds(element.getAttribute("aria-labelledby") ?? ""),
  ].join(" ").trim();
  return [...document.querySelectorAll(controls)]
    .filter((element) => element.checkVisibility() && !words(element))
    .map((element) => element.outerHTML.slice(0, 200));
}"""


def relative_luminance(colour: list[int]) -> float:
    """WCAG 2.2, "relative luminance"."""

    def linear(channel: int) -> float:
        part = channel / 255
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = map(linear, colour[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: list[int], other: list[int]) -> float:
    low, high = sorted((relative_luminance(one), relative_luminance(other)))
    return (high + 0.05) / (low + 0.05)


def too_faint(texts: list[dict[str, Any]]) -> list[str]:
    found = []
    for text in texts:
        large = text["pixels"] >= 24 or (text["bold"] and text["pixels"] >= 18.66)
        ratio = contrast(text["colour"], text["ground"])
        if ratio < (LEAST_CONTRAST_OF_LARGE_TEXT if large else LEAST_CONTRAST):
            found.append(f"{text['text']!r} in {text['where']}: {ratio:.2f}")
    return found


@pytest.fixture(scope="module")
def lively(installation: Stack, workers: None) -> Iterator[Stack]:
    """Tasks of many statuses, waiting ones and a notice, so that every colour is on the page."""
    queue = installation.system.queue
    queue.pause([Priority.LOW])
    queue.submit_many(TaskRequest("test.noop", priority=Priority.LOW) for _ in range(5))
    cancelled = queue.submit(TaskRequest("test.noop", priority=Priority.LOW)).task_id
    queue.cancel(cancelled)
    failing = {"permanent": True, "message": "a very long reason without a blank: " + "x" * 120}
    failed = queue.submit(TaskRequest("test.fail", failing, priority=Priority.URGENT)).task_id
    running = queue.submit(TaskRequest("test.sleep", {"seconds": 60, "steps": 100}, priority=Priority.URGENT))
    queries = installation.system.store.queries
    wait_until(lambda: queries.task(failed).ended_at, deadline_seconds=60, what="the failure")
    yield installation
    queue.cancel(running.task_id)
    queue.clear(Priority.LOW)
    queue.resume()


def settled(page: Page) -> None:
    """Wait for the first figures where a page has any."""
    if page.locator("#pulse").count():
        expect(page.locator("#pulse")).to_be_visible()
        expect(page.locator("#rows tr, #queues tr").first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_all_text_has_the_contrast_that_wcag_asks_for(
    path: str, scheme: str, new_visit: NewVisit, lively: Stack
) -> None:
    page = new_visit(scheme=scheme).open(path)
    settled(page)
    texts = page.evaluate(TEXTS)
    assert len(texts) > 5
    assert too_faint(texts) == []


@pytest.mark.parametrize("path", PAGES)
def test_no_page_scrolls_sideways(path: str, visit: Visit, lively: Stack) -> None:
    page = visit.open(path)
    settled(page)
    for width in (360, 390, 560, 640, 768, 900, 1024, 1280, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_panel_fits_a_phone(new_visit: NewVisit, lively: Stack) -> None:
    page = new_visit(width=360, scheme="dark").open()
    page.locator("#rows .row-name", has_text="test.fail").first.click()
    panel = page.get_by_role("dialog")
    expect(panel).to_contain_text("a very long reason")
    assert panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    assert (
        too_faint(page.evaluate(TEXTS.replace("document.body,", "document.querySelector('dialog'),"))) == []
    )


@pytest.mark.parametrize("path", PAGES)
def test_every_control_has_a_name_and_the_page_an_order(path: str, visit: Visit, lively: Stack) -> None:
    page = visit.open(path)
    settled(page)
    assert page.evaluate(UNNAMED, CONTROLS) == []
    assert page.locator("h1").count() == 1
    assert page.locator("main").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("html").get_attribute("lang") == "en"


def test_the_theme_can_be_changed_and_is_remembered(new_visit: NewVisit) -> None:
    page = new_visit(scheme="light").open()
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Change to the dark theme").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Change to the light theme").click()
    assert page.evaluate(ground) == light


def test_nothing_is_fetched_from_elsewhere(visit: Visit, lively: Stack) -> None:
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    page = visit.open()
    settled(page)
    assert asked
    assert all(url.startswith((visit.url, "data:")) for url in asked)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_a_script_or_a_style_of_its_own(path: str, visit: Visit) -> None:
    answer = visit.page.request.get(visit.url + path, headers={"Accept": "text/html"})
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    html = answer.text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", html)
