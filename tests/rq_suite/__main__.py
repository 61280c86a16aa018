"""Run RQ's own worker tests, of the installed version's sdist, against our worker class.

The sdist is downloaded into a temporary folder and removed afterwards; none of it is kept. Arguments go to
pytest. Exit 0 if all selected tests pass, 1 if one fails, 2 if the tests cannot be had.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rq.version import VERSION

from tests.servers import RedisServer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What of RQ's suite runs or inspects a worker. (SpawnWorker, too, is a class of its own.)
FILES = (
    *("test_worker", "test_worker_registration", "test_worker_pool", "test_intermediate_queue"),
    *("test_executions", "test_registry", "test_results", "test_retry", "test_repeat", "test_callbacks"),
    *("test_commands", "test_dependencies", "test_job", "test_job_dependency", "test_job_lifecycle"),
    *("test_queue", "test_timeouts", "test_group", "test_cli", "test_webhooks", "test_rate_limit"),
    "test_scheduler",
)
CANNOT = 2
TEST_SECONDS = 120


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rq-suite-") as folder, RedisServer() as server:
        source = _download(Path(folder))
        if source is None:
            return CANNOT
        return _run(source, server.port)


def _download(folder: Path) -> Path | None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run([*pip, "--dest", str(folder), f"rq=={VERSION}"], check=False)
    archives = list(folder.glob("rq-*.tar.gz"))
    if done.returncode or not archives:
        print(f"The sdist of rq {VERSION} could not be downloaded.", file=sys.stderr)
        return None
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    source = folder / f"rq-{VERSION}"
    if not (source / "tests" / "test_worker.py").exists():
        print(f"The sdist of rq {VERSION} has no tests.", file=sys.stderr)
        return None
    return source


def _run(source: Path, port: int) -> int:
    """Every file, then what failed once more: fixed waits in RQ's tests are too short on a busy machine."""
    failed = _pytest(source, port, [f"tests/{name}.py" for name in FILES], whole=True)
    if not failed:
        return 0
    print(f"\nOnce more, by themselves: {', '.join(failed)}")
    return int(bool(_pytest(source, port, failed, whole=False)))


def _pytest(source: Path, port: int, what: Sequence[str], *, whole: bool) -> list[str]:
    """Returns the tests that failed."""
    failed = source / "failed.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, [source, ROOT, HERE])),
        "RQ_SUITE_REDIS_PORT": str(port),
        "RQ_SUITE_FAILED": str(failed),
        "RQ_SUITE_WHOLE": str(int(whole)),
        "RUN_SLOW_TESTS_TOO": "1",
        "RQ_ALLOW_FOREIGN_JOBS": "true",
        "RQ_QUEUE_PREFIX": "twintrack-",  # none of the queues of RQ's tests is ours
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "rq_suite_plugin", "-p", "no:cacheprovider"]
    limits = ["--timeout", str(TEST_SECONDS), "--disable-warnings"]
    failed.unlink(missing_ok=True)
    done = subprocess.run([*command, *limits, *sys.argv[1:], *what], cwd=source, env=environment, check=False)
    named = failed.read_text().split() if failed.exists() else []
    return named or ([*what] if done.returncode else [])


if __name__ == "__main__":
    sys.exit(main())
