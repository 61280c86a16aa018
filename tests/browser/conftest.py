"""A real browser on a real installation: web app, workers of both tracks, Redis and SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from app.handlers.sample_pictures import generate
from app.web.headers import CONTENT_POLICY
from tests.acceptance.stack import Stack, Web
from tests.server_process import program
from tests.servers import RedisServer

HERE = Path(__file__).parent
WAIT_MILLISECONDS = 60_000
# Chromium itself writes this line for every refused request; the page tells the refusal in its own words.
REFUSED_REQUEST = "Failed to load resource"
WATCH_POLICY = """
  window.policyViolations = [];
  document.addEventListener("securitypolicyviolation", (event) =>
    window.policyViolations.push(`${event.violatedDirective}: ${event.blockedURI}`));
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    generate(folder)
    return folder


@pytest.fixture(scope="package")
def page_redis() -> Iterator[RedisServer]:
    """A Redis that one of these tests stops and starts again."""
    with RedisServer(persistence=True) as server:
        yield server


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, page_redis: RedisServer) -> Iterator[Stack]:
    """Hybrid mode: half of the tasks take each track."""
    folder = tmp_path_factory.mktemp("installation")
    stack = Stack(
        folder,
        f"sqlite:///{folder / 'tasks.db'}",
        page_redis.url,
        RQ_HYBRID_MODE="true",
        RQ_ROLLOUT_PERCENT=50,
        RQ_FALLBACK_TIMEOUT=2,
        # A worker that still believes a queue paused drops a ticket; it is pushed again after this time.
        RQ_TICKET_GRACE=1,
        RQ_WORKER_MODE="external",
        LOG_LEVEL="warning",
    )
    yield stack
    stack.close()


@pytest.fixture(scope="package")
def web(installation: Stack) -> Web:
    """The web app without workers beside it."""
    return installation.start_web()


@pytest.fixture(scope="package")
def workers(installation: Stack, web: Web) -> None:
    """Two workers per track."""
    installation.start_pool(workers=2)


@dataclass(slots=True)
class Visit:
    """One browser page on the running app, and what went wrong in it."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def problems(self) -> list[str]:
        """Script errors, console errors, and what the content policy has blocked."""
        blocked: list[str] = self.page.evaluate("window.policyViolations ?? []")
        return self.errors + blocked


NewVisit = Callable[..., Visit]


@pytest.fixture
def new_visit(chromium: Browser, web: Web) -> Iterator[NewVisit]:
    """Opens browsers with their own storage; none of them may have met an error when the test ends."""
    assert "unsafe" not in CONTENT_POLICY
    visits: list[Visit] = []
    contexts: list[BrowserContext] = []

    def open_one(*, url: str = web.url, width: int = 1280, scheme: str = "light", **options: object) -> Visit:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            **options,  # type: ignore[arg-type]
        )
        context.add_init_script(WATCH_POLICY)
        visit = Visit(context.new_page(), url)
        visit.page.set_default_timeout(WAIT_MILLISECONDS)
        visit.page.on("pageerror", lambda error: visit.errors.append(f"script: {error}"))
        visit.page.on("console", lambda said: _note(visit, said.type, said.text))
        contexts.append(context)
        visits.append(visit)
        return visit

    yield open_one
    found = [problem for visit in visits for problem in visit.problems()]
    for context in contexts:
        context.close()
    assert found == []


def _note(visit: Visit, kind: str, text: str) -> None:
    if kind in ("error", "warning") and not text.startswith(REFUSED_REQUEST):
        visit.errors.append(f"console: {text}")


@pytest.fixture
def visit(new_visit: NewVisit) -> Visit:
    return new_visit()
