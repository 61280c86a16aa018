"""Sending tasks: pictures, samples, many at once, and what a refusal looks like."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.stack import Stack
from tests.browser.conftest import Visit

pytestmark = pytest.mark.usefixtures("workers")


def cards(page: Page) -> list[str]:
    return page.locator(".yours-card .card-name").all_inner_texts()


def test_a_picture_is_uploaded_runs_and_ends_with_its_alt_text_colours_and_engine(
    visit: Visit, pictures: Path
) -> None:
    page = visit.open()
    page.locator("#files").set_input_files(pictures / "sample-harbour.png")
    card = page.locator(".yours-card", has_text="sample-harbour.png")
    expect(card.locator(".status")).to_have_text("Completed")
    expect(card.locator(".alt-text")).to_contain_text("mostly")
    expect(card.locator(".swatches li").first).to_contain_text("%")
    expect(card.get_by_text("without a vision model")).to_be_visible()
    shown = card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert shown > 100
    assert "blue" in (card.locator("img").get_attribute("alt") or "")


def test_several_pictures_become_a_task_each_at_the_chosen_priority(
    visit: Visit, pictures: Path, installation: Stack
) -> None:
    page = visit.open()
    page.get_by_role("radio", name="urgent").check(force=True)
    names = ["sample-harbour.png", "sample-balloons.png", "sample-lighthouse.jpg"]
    page.locator("#files").set_input_files([pictures / name for name in names])
    expect(page.locator(".yours-card .status.good")).to_have_count(3)
    assert sorted(cards(page)) == sorted(names)
    newest = installation.system.store.queries.page(limit=3)
    assert {task.priority.value for task in newest} == {"urgent"}


def test_a_picture_can_be_dropped_anywhere(visit: Visit, pictures: Path) -> None:
    page = visit.open()
    content = list((pictures / "sample-balloons.png").read_bytes())
    page.evaluate(
        """(content) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(content)], "dropped.png", { type: "image/png" }));
          const tell = (kind) => document.querySelector(".tasks").dispatchEvent(
            new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
          tell("dragenter");
          tell("drop");
        }""",
        content,
    )
    expect(page.locator(".yours-card", has_text="dropped.png").locator(".status")).to_have_text("Completed")
    expect(page.locator("#drop")).not_to_have_class(re.compile("over"))


def test_what_is_no_picture_is_refused_beside_its_name(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    text = tmp_path / "notes.png"
    text.write_text("this is no picture")
    page.locator("#files").set_input_files(text)
    card = page.locator(".yours-card", has_text="notes.png")
    expect(card.locator(".beside-error")).to_contain_text("notes.png is not a picture")
    card.get_by_role("button", name="Dismiss").click()
    expect(card).to_have_count(0)


def test_a_file_that_is_too_large_is_refused_without_being_sent(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(21 * 1024 * 1024)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    page.locator("#files").set_input_files(large)
    expect(page.locator(".yours-card .beside-error")).to_contain_text("the limit is 20 MB")
    assert not any("/api/uploads" in url for url in sent)


def test_each_sample_ends_as_its_description_says(visit: Visit) -> None:
    page = visit.open()
    expected = {
        "Echo": "Completed",
        "Describe a picture": "Completed",
        "Fail twice, then succeed": "Completed",
        "Fail for good": "Failed",
        "Sleep for five seconds": "Completed",
    }
    for title in expected:
        page.locator(".sample", has_text=title).click()
    for title, word in expected.items():
        card = page.locator(".yours-card", has_text=title)
        expect(card.locator(".status")).to_have_text(word, timeout=60_000)
    expect(page.locator(".yours-card", has_text="Echo").locator(".result-line")).to_have_text(
        "message: Hello from both tracks"
    )
    expect(page.locator(".yours-card", has_text="Fail for good").locator(".task-error")).to_contain_text(
        "dead letter"
    )


def test_progress_moves_while_a_task_runs(visit: Visit) -> None:
    page = visit.open()
    page.locator(".sample", has_text="Sleep for five seconds").click()
    card = page.locator(".yours-card").first
    expect(card.locator(".card-step")).to_contain_text("% · step")
    bar = card.get_by_role("progressbar")
    first = int(bar.get_attribute("aria-valuenow") or 0)
    page.wait_for_function(
        "([bar, first]) => Number(bar.getAttribute('aria-valuenow')) > first",
        arg=[bar.element_handle(), first],
    )
    expect(card.locator(".status")).to_have_text("Completed")


def test_a_hundred_of_a_sample_are_sent_with_one_press(visit: Visit, installation: Stack) -> None:
    before = sum(installation.counts().values())
    page = visit.open()
    page.locator("#times").select_option("100")
    page.locator(".sample", has_text="Echo").click()
    expect(page.locator("#announce")).to_have_text("100 tasks accepted")
    assert sum(installation.counts().values()) == before + 100


def test_what_was_sent_is_still_shown_after_a_reload(visit: Visit) -> None:
    page = visit.open()
    page.locator(".sample", has_text="Echo").click()
    expect(page.locator(".yours-card .status")).to_have_text("Completed")
    page.reload()
    expect(page.locator(".yours-card .status")).to_have_text("Completed")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#yours")).to_be_hidden()
