"""A private Prefect server that asks for a password, a worker of its own, and the project's commands.

Prefect runs as programs of its own environment; what the server knows is read over HTTP by a client that
shares no code with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx

from config import ROOT
from tests.server_process import Server, dying_with_parent
from tests.waiting import wait_until

T = TypeVar("T")

PREFECT = ROOT / ".venv-prefect" / "bin"
COMMAND = "flows/prefect_flow-worker-flow.py"
POOL = "twintrack"
USER, PASSWORD = "operator", "4f1d-never-shown"
AUTH = f"{USER}:{PASSWORD}"
# Of the machine that runs the tests a program sees no more than this.
KEPT = ("PATH", "LANG", "LC_ALL")
# Importing Prefect takes seconds, and minutes where others keep the machine busy.
DEADLINE_SECONDS = 900.0


class PrefectProgram(Server):
    """One of Prefect's programs, with these settings and no others; killed at the end, with its children."""

    start_seconds = DEADLINE_SECONDS

    def __init__(self, settings: Mapping[str, object]) -> None:
        super().__init__()
        self.settings = settings

    @property
    def stop_signal(self) -> signal.Signals:
        return signal.SIGKILL

    def with_settings(self, *command: str) -> list[str]:
        """The command, in an environment of these settings alone."""
        return ["env", "-i", *(f"{name}={value}" for name, value in clean(self.settings).items()), *command]


class PrefectServer(PrefectProgram):
    """What `make prefect-server` starts, with a password."""

    @property
    def url(self) -> str:
        """The address for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self.port}/api"

    def command(self) -> list[str]:
        python, port = str(PREFECT / "python"), str(self.port)
        return self.with_settings(python, "-m", "flows.etl.prefect_server", "--port", port)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """What the API says to somebody who knows the password; asked again where it cannot answer yet."""
        with httpx.Client(auth=(USER, PASSWORD), timeout=DEADLINE_SECONDS) as client:
            answer = eventually(
                lambda: client.request(method, f"{self.url}{path}", json=body),
                lambda answer: answer.status_code < 500,
            )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def until(self, path: str, wanted: Callable[[Any], bool]) -> Any:
        """What is at this path of the API, once it is as wanted."""
        return eventually(lambda: self.ask("GET", path), wanted)

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """The flow runs that this filter leaves."""
        found: list[dict[str, Any]] = self.ask("POST", "/flow_runs/filter", {"flow_runs": wanted})
        return found

    def copies(self, *runs: str) -> list[dict[str, Any]]:
        """The copies of tables (task runs) of these flow runs."""
        wanted = {"task_runs": {"flow_run_id": {"any_": runs}}}
        found: list[dict[str, Any]] = self.ask("POST", "/task_runs/filter", wanted)
        return found


class PrefectWorker(PrefectProgram):
    """A stock worker on the pool, which looks for runs each second."""

    def __init__(self, settings: Mapping[str, object], server: PrefectServer) -> None:
        super().__init__(settings)
        self.server = server

    def command(self) -> list[str]:
        return self.with_settings(str(PREFECT / "prefect"), "worker", "start", "--pool", POOL)

    def answers(self) -> bool:
        workers = self.server.ask("POST", f"/work_pools/{POOL}/workers/filter", {})
        return any(worker["status"] == "ONLINE" for worker in workers)


def eventually(look: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """What is seen once it is as wanted; looks twice a second."""
    seen: list[T] = []

    def there() -> bool:
        seen[:] = [look()]
        return wanted(seen[0])

    wait_until(there, deadline_seconds=DEADLINE_SECONDS, poll_seconds=0.5, what=lambda: f"last seen: {seen}")
    return seen[0]


def clean(settings: Mapping[str, object]) -> dict[str, str]:
    """A whole environment: these settings, and the little that every program needs."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"PYTHONPATH": str(ROOT), "DO_NOT_TRACK": "1"} | {k: str(v) for k, v in settings.items()}


def command(folder: Path, settings: Mapping[str, object], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the project's deploy or run command as people do, with the project's own Python, to its end."""
    return subprocess.run(
        dying_with_parent([sys.executable, str(ROOT / COMMAND), *words]),
        cwd=folder,
        env=clean(settings),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
