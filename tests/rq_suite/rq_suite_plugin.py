"""A pytest plugin for RQ's own tests: our worker class stands in for RQ's, on a private Redis.

Loaded before RQ's test files are imported, so that their `from rq import Worker` finds our class. RQ's tests
connect to port 6379 of this machine; here that is the private server's port.
"""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.connection
import rq
import rq.cli.cli
import rq.cli.helpers
import rq.defaults
import rq.worker
import rq.worker_pool
from rq.version import VERSION

from workers.rq_worker import TwintrackWorker

DEFAULT_PORT = 6379
PORT = int(os.environ["RQ_SUITE_REDIS_PORT"])
WHOLE = os.environ["RQ_SUITE_WHOLE"] == "1"
FAILED = Path(os.environ["RQ_SUITE_FAILED"])
OUR_CLASS = TwintrackWorker
DESELECTED = Path(__file__).with_name("deselected.txt")

_connect = redis.connection.Connection.__init__


def _connect_privately(self: Any, *args: Any, **options: Any) -> None:
    if options.get("port", DEFAULT_PORT) == DEFAULT_PORT:
        options["port"] = PORT
    _connect(self, *args, **options)  # type: ignore[no-untyped-call]


def substitute() -> None:
    """Our class under every name by which RQ and its tests reach RQ's."""
    redis.connection.Connection.__init__ = _connect_privately  # type: ignore[method-assign]
    for module in (rq, rq.worker, rq.worker_pool):
        module.Worker = TwintrackWorker  # type: ignore[attr-defined]
    rq.defaults.DEFAULT_WORKER_CLASS = "workers.rq_worker.TwintrackWorker"
    rq.cli.helpers.DEFAULT_WORKER_CLASS = "workers.rq_worker.TwintrackWorker"  # type: ignore[attr-defined]


substitute()


def deselected() -> dict[str, str]:
    """Test id and reason of each line of the file that lists them."""
    lines = [line for line in DESELECTED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: reason for name, _, reason in (line.partition(" : ") for line in lines)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = deselected()
    found = {item.nodeid for item in items}
    files = {nodeid.partition("::")[0] for nodeid in found}
    unknown = {name for name in reasons if name.partition("::")[0] in files} - found
    if unknown and WHOLE:
        raise pytest.UsageError(f"deselected, but not there: {', '.join(sorted(unknown))}")
    modules = {item.module for item in items if isinstance(item, pytest.Function)}
    stock = [module.__name__ for module in modules if getattr(module, "Worker", OUR_CLASS) is not OUR_CLASS]
    if stock:
        raise pytest.UsageError(f"these would test RQ's class instead of ours: {', '.join(sorted(stock))}")
    left_out = [item for item in items if item.nodeid in reasons]
    items[:] = [item for item in items if item.nodeid not in reasons]
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_logfinish() -> None:
    """A failed test of a pool leaves its workers behind: they took later tests' jobs, and held up the end."""
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = len(terminalreporter.stats.get("passed", []))
    left_out = len(terminalreporter.stats.get("deselected", []))
    failed = [
        report.nodeid for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])
    ]
    FAILED.write_text("\n".join(dict.fromkeys(failed)))
    terminalreporter.write_line(
        f"{passed} tests of rq {VERSION} passed with {OUR_CLASS.__name__}; {left_out} deselected"
    )
