"""Record a whole migration from database mode to Redis only and back: `make record-migration`.

Runs it twice on servers of its own, with workers at work: once by the commands, as the text of a terminal
session, and once with the migration page open, as pictures. Writes docs/deployment.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from app.tasks.model import Priority  # noqa: E402
from app.tasks.submission import TaskRequest  # noqa: E402
from tests.acceptance.stack import Stack, Web  # noqa: E402
from tests.servers import MariaDbServer, RedisServer  # noqa: E402
from tests.waiting import wait_until  # noqa: E402

FOLDER = ROOT / "docs" / "deployment"
HISTORY = "docs/deployment/migration_history.md"
SESSION = FOLDER / "terminal-session.md"
ROWS = {Priority.URGENT: 200, Priority.HIGH: 4_000, Priority.NORMAL: 12_000, Priority.LOW: 8_000}
OPTIONS = ("--hybrid-seconds", "6", "--trial-seconds", "10", "--rate", "1500")
LARGEST_BYTES = 600_000
WAIT_MILLISECONDS = 240_000


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    (ROOT / HISTORY).unlink(missing_ok=True)
    with installation() as (stack, _):
        record_terminal(stack)
    with installation() as (stack, web), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            record_pages(stack, web, browser)
        finally:
            browser.close()


@contextmanager
def installation() -> Iterator[tuple[Stack, Web]]:
    """In database mode with a backlog, and workers of both kinds."""
    folder = Path(tempfile.mkdtemp(prefix="twintrack-migration-"))
    with MariaDbServer() as maria, RedisServer(persistence=True) as redis, maria.database() as database_url:
        settings = {"RQ_HYBRID_MODE": "true", "RQ_ROLLOUT_PERCENT": 0, "RQ_WORKER_MODE": "external"}
        stack = Stack(folder / "var", database_url, redis.url, LOG_LEVEL="warning", **settings)
        try:
            web = stack.start_web()
            stack.start_pool(workers=2)
            for priority, number in ROWS.items():
                task = TaskRequest("test.sleep", {"seconds": 0.05}, priority=priority)
                stack.system.queue.submit_many(task for _ in range(number))
            yield stack, web
        finally:
            stack.close()
            shutil.rmtree(folder, ignore_errors=True)


# --- the terminal -------------------------------------------------------------------------------------


def record_terminal(stack: Stack) -> None:
    lines = [
        "# A migration at the terminal",
        "",
        f"Recorded {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by `make record-migration`, on MariaDB and Redis",
        f"servers of its own: {sum(ROWS.values()):,} tasks wait in the database, workers of both kinds",
        "are at work. Nothing is left out; a line that begins with `$` was typed.",
        "",
        "```text",
    ]
    options = (*OPTIONS, "--history", HISTORY)
    hashed = json.loads(run(stack, "run_migration.py", *options, "--json").stdout)["hash"]
    for call in (
        ("set_mode.py",),
        ("run_migration.py", *options),
        ("run_migration.py", "--confirm", hashed, *options),
        ("set_mode.py",),
        ("run_migration.py", "--rollback"),
        ("set_mode.py",),
        ("validate_task_integrity.py",),
        ("check_data_consistency.py",),
    ):
        done = run(stack, *call)
        lines += [
            f"$ python scripts/migration/{' '.join(call)}",
            *(done.stdout + done.stderr).rstrip().splitlines(),
        ]
        lines += [f"(exit {done.returncode})", ""]
        if done.returncode:
            sys.exit(f"{' '.join(call)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    SESSION.write_text("\n".join([*lines[:-1], "```", ""]), encoding="utf-8")
    print(f"{SESSION.relative_to(ROOT)} and {HISTORY}")


def run(stack: Stack, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    module = f"scripts.migration.{script.removesuffix('.py')}"
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=stack.environment, capture_output=True, text=True, check=False
    )


# --- the page -----------------------------------------------------------------------------------------


def record_pages(stack: Stack, web: Web, browser: Browser) -> None:
    page = opened(browser, web, 1280, 1250, "light")
    narrow = opened(browser, web, 420, 1500, "dark")
    expect(page.locator("#no-procedure")).to_be_visible()
    save(page, "migration-1-before")
    options = (*OPTIONS, "--history", str(stack.folder / "history.md"))
    hashed = json.loads(run(stack, "run_migration.py", *options, "--json").stdout)["hash"]
    stack.start("-m", "scripts.migration.run_migration", "--confirm", hashed, *options, log_name="migration")
    expect(page.locator("#way li[aria-current]")).to_contain_text("hybrid")
    save(page, "migration-2-hybrid")
    wait_until(
        lambda: page.locator("#bar").evaluate("bar => bar.value") > 6000,
        deadline_seconds=240,
        what="6,000 rows",
    )
    save(page, "migration-3-moving")
    page.get_by_role("button", name="Pause").click()
    expect(narrow.locator("#run-state")).to_contain_text("paused")
    time.sleep(2)
    save(narrow, "migration-4-paused-narrow-dark")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#run-state")).to_contain_text("completed")
    save(page, "migration-5-completed", whole=True)
    page.get_by_role("button", name="Roll back").click()
    page.keyboard.type("rollback")
    save(page, "migration-6-typed-word")
    page.keyboard.press("Enter")
    expect(page.locator("#run-state")).to_contain_text("rolled back")
    time.sleep(2)
    save(page, "migration-7-rolled-back", whole=True)
    with page.context.expect_page() as new:
        page.locator("#reports a").last.click()
    new.value.wait_for_load_state()
    save(new.value, "migration-8-verification")


def opened(browser: Browser, web: Web, width: int, height: int, scheme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MILLISECONDS)
    expect.set_options(timeout=WAIT_MILLISECONDS)
    page.goto(f"{web.url}/admin/migration")
    return page


def save(page: Page, name: str, *, whole: bool = False) -> None:
    path = FOLDER / f"{name}.png"
    page.bring_to_front()
    page.screenshot(path=path, full_page=whole)
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
    if size > LARGEST_BYTES:
        sys.exit(f"{path.name} is larger than {LARGEST_BYTES // 1000} kB")


if __name__ == "__main__":
    main()
