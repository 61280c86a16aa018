"""`python -m tests.soak.victim PARENT`: forks pools and submitters that carry the crash points, on request.

One process imports everything once, so that a killed pool is back in milliseconds. It holds no connection.
Requests are JSON lines on standard input; the answer to each is the process id of what was started.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import IO, Any

import workers.life
import workers.slots
from app.logs import configure_logging
from app.system import System, build_system
from app.tasks.errors import TaskError
from app.tasks.handlers import load_handlers
from app.tasks.model import Priority, Submitted
from app.tasks.submission import TaskRequest
from app.transfer import runs
from app.transfer.plans import Direction, Limits, Scope, make_plan
from config import Config
from tests.soak import hooks
from tests.soak.points import here
from workers.dying import die_with_parent
from workers.pool import Plan, Pool


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    hooks.install()
    # A worker that is killed in each round would wait longer and longer for its next start.
    assert hasattr(workers.slots, "HEALTHY_SECONDS")
    workers.slots.HEALTHY_SECONDS = 0.0
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    loaded = False
    for line in sys.stdin:
        request = json.loads(line)
        config = Config.for_tests(**request["settings"])
        if not loaded:
            configure_logging(config.LOG_LEVEL, json=config.LOG_JSON)
            load_handlers(config.TASK_MODULES)
            gc.freeze()
            loaded = True
        body = {"pool": _pool, "submit": _submit, "stream": _stream, "move": _move}[request["do"]]
        print(_fork(lambda: body(config, request)), flush=True)  # noqa: B023  # runs at once


def _fork(body: Callable[[], None]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with_parent(parent)
        os.dup2(2, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        body()
    except BaseException:  # noqa: BLE001 - a forked child must not go on in our code
        traceback.print_exc()
    finally:
        os._exit(0)


def _pool(config: Config, request: dict[str, Any]) -> None:
    here.pool_pid = os.getpid()
    if request.get("host"):
        _pretend_to_be(request["host"])
    plan = Plan(redis_workers=request["workers"], pollers=request["pollers"])
    Pool(config, plan).run()


def _pretend_to_be(host: str) -> None:
    """Another host's name: its life files are in a folder that nobody else sees."""
    for name, module in list(sys.modules.items()):
        if name.startswith("workers.") and hasattr(module, "HOST"):
            module.HOST = host  # type: ignore[attr-defined]


def _submit(config: Config, request: dict[str, Any]) -> None:
    """Submit one by one; each accepted id goes to a file at once, as a client would have got it."""
    here.role = "submitter"
    system = build_system(config)
    with open(request["accepted"], "a", encoding="utf-8") as accepted:
        for fields in request["tasks"]:
            _submit_one(system, fields, accepted)
        accepted.write("all\n")


def _submit_one(system: System, fields: dict[str, Any], accepted: IO[str]) -> None:
    answer = system.queue.submit(TaskRequest(**fields))
    assert isinstance(answer, Submitted)
    accepted.write(f"{answer.task_id} {fields['name']}\n")
    accepted.flush()


def _stream(config: Config, request: dict[str, Any]) -> None:
    """Submit these tasks again and again, evenly, until the file `stop` is there. While the database is away
    a submission fails, as a client would be told; its row may be there nevertheless."""
    here.role = "submitter"
    system = build_system(config)
    with open(request["accepted"], "a", encoding="utf-8") as accepted:
        for fields in itertools.cycle(request["tasks"]):
            if os.path.exists(request["stop"]):
                return
            with contextlib.suppress(TaskError):
                _submit_one(system, fields, accepted)
            time.sleep(request["seconds"])


def _move(config: Config, request: dict[str, Any]) -> None:
    """One transfer from its begin to its end, or to the end of one that was cut short."""
    here.role = "mover"
    system = build_system(config)
    direction = Direction(request["direction"])
    if request.get("resume"):
        runs.resume(system.queue, direction).run()
        return
    scope = Scope(tuple(map(Priority, request.get("priorities", ["normal"]))))
    limits = Limits(batch_rows=request["batch_rows"], rows_per_second=request.get("rate"))
    plan = make_plan(system.store, direction, scope)
    runs.start(system.queue, plan, limits, take_over=request.get("take_over", False)).run()


if __name__ == "__main__":
    main()
