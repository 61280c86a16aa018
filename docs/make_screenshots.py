"""Take the pictures of the tasks page in docs/images: `python docs/make_screenshots.py`.

Runs a whole installation for about a minute and a half, with tasks in every status, and looks at it with
Chromium. Needs what the tests need.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.handlers.sample_pictures import generate  # noqa: E402
from app.tasks.model import Priority  # noqa: E402
from app.tasks.submission import TaskRequest  # noqa: E402
from tests.acceptance.stack import Stack, Web  # noqa: E402
from tests.servers import RedisServer  # noqa: E402

IMAGES = ROOT / "docs" / "images"
FEED_SECONDS = 75
LARGEST_BYTES = 400_000
# name: width and height in CSS pixels, theme, pixels per CSS pixel
SHOTS = {
    "page-wide": (1440, 1500, "light", 1),
    "page-dark": (1440, 1500, "dark", 1),
}


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="twintrack-screenshots-"))
    with RedisServer() as redis_server, sync_playwright() as playwright:
        stack = Stack(
            folder / "var",
            f"sqlite:///{folder / 'tasks.db'}",
            redis_server.url,
            RQ_HYBRID_MODE="true",
            RQ_ROLLOUT_PERCENT=50,
            RQ_WORKER_MODE="external",
            LOG_LEVEL="warning",
        )
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            take(stack, browser, folder)
        finally:
            browser.close()
            stack.close()
            shutil.rmtree(folder, ignore_errors=True)


def take(stack: Stack, browser: Browser, folder: Path) -> None:
    """Open all pages first: each draws the history that it has seen itself."""
    generate(stack.folder / "pictures")
    web = stack.start_web()
    stack.start_pool(workers=2)
    add_unusual_tasks(stack)
    pages = {name: open_page(browser, web, *shot) for name, shot in SHOTS.items()}
    feed(stack)
    send_pictures(list(pages.values()), stack.folder / "pictures")
    crowd(stack)
    for name, page in pages.items():
        save(page, name)


def open_page(browser: Browser, web: Web, width: int, height: int, scheme: str, scale: int) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        device_scale_factor=scale,
        # A wagon on its way would be caught anywhere.
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(web.url)
    return page


def add_unusual_tasks(stack: Stack) -> None:
    """One task of each status that does not come by itself."""
    queue = stack.system.queue
    later = datetime.now(UTC) + timedelta(hours=6)
    queue.submit(TaskRequest("test.echo", {"note": "in the evening"}, priority=Priority.LOW, run_at=later))
    strange = queue.submit(TaskRequest("test.echo", {}, run_at=later)).task_id
    with stack.system.store.database.engine.begin() as connection:
        # What validation makes of a legacy row that cannot become a task.
        connection.execute(
            text("UPDATE tasks SET status = 'QUARANTINED', run_at = NULL, error = :error WHERE id = :id"),
            {"id": strange, "error": "the payload is no JSON"},
        )


def feed(stack: Stack) -> None:
    """Waves of tasks, so that the history has something to tell."""
    chance = random.Random(4)
    queue = stack.system.queue
    ends = time.monotonic() + FEED_SECONDS
    while (left := ends - time.monotonic()) > 0:
        wave = 11 if int(left / 11) % 2 else 3
        for _ in range(chance.randrange(wave)):
            seconds = chance.choice([0.2, 0.4, 0.8, 1.6])
            priority = chance.choices(list(Priority), weights=[1, 2, 5, 3])[0]
            queue.submit(TaskRequest("test.sleep", {"seconds": seconds, "steps": 6}, priority=priority))
        if chance.random() < 0.12:
            failing = {"permanent": True, "message": "the address does not exist"}
            queue.submit(TaskRequest("test.fail", failing, priority=Priority.HIGH))
        time.sleep(0.8)


def send_pictures(pages: list[Page], pictures: Path) -> None:
    for page in pages:
        page.get_by_role("radio", name="urgent").check(force=True)
        page.locator("#files").set_input_files(pictures / "sample-sunset.jpg")
    for page in pages:
        page.locator(".yours-card .swatches").wait_for(timeout=60_000)
        page.get_by_role("radio", name="normal").check(force=True)


def crowd(stack: Stack) -> None:
    """More than the workers can do at once, and among the newest tasks one of nearly every status."""
    queue = stack.system.queue
    for priority, number in ((Priority.NORMAL, 19), (Priority.LOW, 14)):
        long = TaskRequest("test.sleep", {"seconds": 2.5, "steps": 50}, priority=priority)
        queue.submit_many(long for _ in range(number))
    retrying = {"times": 4, "message": "the other side did not answer"}
    queue.submit(TaskRequest("test.fail", retrying, priority=Priority.URGENT))
    time.sleep(4)
    failing = {"permanent": True, "message": "the address does not exist"}
    queue.submit(TaskRequest("test.fail", failing, priority=Priority.URGENT))
    queue.submit(TaskRequest("test.echo", {"greeting": "hello"}, priority=Priority.URGENT))
    queue.submit(TaskRequest("describe_image", {"path": "sample-harbour.png"}, priority=Priority.URGENT))
    time.sleep(2.6)
    sleep = {"seconds": 9, "steps": 60}
    for priority, number in ((Priority.URGENT, 4), (Priority.HIGH, 6)):
        queue.submit_many(TaskRequest("test.sleep", sleep, priority=priority) for _ in range(number))
    queue.cancel(queue.submit(TaskRequest("test.echo", {"n": 1}, priority=Priority.LOW)).task_id)
    time.sleep(5.5)


def save(page: Page, name: str) -> None:
    path = IMAGES / f"{name}.png"
    page.evaluate("document.activeElement.blur()")
    page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > LARGEST_BYTES:
        sys.exit(f"{path.name} is larger than {LARGEST_BYTES // 1000} kB")


if __name__ == "__main__":
    main()
