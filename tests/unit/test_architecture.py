"""The structure that ARCHITECTURE.md promises: arrows point down, one writer of status, one reader of the
environment, Flask in one room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lower rooms first. A room may import itself and the rooms below it.
FLOORS = [
    ("config_mistakes", "config_values"),
    ("config",),
    ("app.tasks",),
    ("app.handlers",),
    ("app.embedded_redis", "app.embedded_redis_launch", "app.logs", "app.system", "app.database_names"),
    ("app.transfer", "app.distributed"),
    ("app.monitoring",),
    ("app.jobs", "app.rq_settings", "app.welcome"),
    ("app.web",),
    ("app",),
    ("workers", "scripts", "core", "flows", "benchmarks", "web_app"),
]
# Rooms of one floor that must not know each other, and arrows that no floor explains.
FORBIDDEN = [("workers", "scripts"), ("app", "workers"), ("app", "scripts")]
ALLOWED_BESIDE = {("web_app", "workers")}
SQL_ROOMS = (
    *(
        "app.tasks.schema",
        "app.tasks.source_tables",
        "app.tasks.dialects",
        "app.tasks.database",
        "app.tasks.migrate",
        "app.tasks.migrations",
    ),
    *("app.tasks.store", "app.tasks.queue", "app.tasks.runner", "app.tasks.live_task", "app.tasks.handlers"),
    *("app.tasks.after_commit", "app.transfer", "app.distributed", "app.monitoring", "config_values"),
    "app.database_names",
    *("benchmarks.transfer", "benchmarks.floor", "benchmarks.records"),
    # as programs of other people have theirs
    *("flows.examples.database_etl", "flows.examples.distributed_survey_processing"),
)
REDIS_ROOMS = (
    *("app.tasks.tickets", "app.embedded_redis", "app.embedded_redis_launch"),
    *("app.web.dashboard", "app.transfer.verification.tickets", "app.transfer.preflight"),
    *("benchmarks", "workers.rq_worker"),
)
PREFECT_ROOMS = ("flows.etl.prefect_client", "flows.etl.prefect_flows")
FLASK_ROOMS = ("app", "app.web", "web_app")


@cache
def modules() -> Sequence[tuple[str, ast.Module]]:
    folders = [ROOT / name for name in ("app", "workers", "scripts", "core", "flows", "benchmarks")]
    files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    files += [ROOT / f"{name}.py" for name in ("config", "config_mistakes", "config_values", "web_app")]
    return [(_name(path), ast.parse(path.read_text())) for path in files]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(tree: ast.Module) -> Sequence[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def inside(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def floor(module: str) -> int | None:
    """The floor of the most special room that holds the module."""
    found = [
        (len(room), number)
        for number, rooms in enumerate(FLOORS)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    return max(found)[1] if found else None


def test_every_arrow_points_down() -> None:
    wrong = []
    for module, tree in modules():
        own = floor(module)
        for target in imports(tree):
            other = floor(target)
            if own is None or other is None or module.split(".")[0] == target == "app":
                continue
            beside = (module.split(".")[0], target.split(".")[0]) in FORBIDDEN
            up = other > own and not (module == "app" and inside(target, ("app.web",)))
            if (up or beside) and (module, target.split(".")[0]) not in ALLOWED_BESIDE:
                wrong.append(f"{module} -> {target}")
    assert wrong == []


def test_only_the_store_writes_to_the_tasks_table() -> None:
    writers = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _writes_tasks(node):
                writers.add(module)
    assert {module for module in writers if not inside(module, ("app.tasks.store", "app.transfer"))} == set()
    assert writers  # the check finds what it looks for


def _writes_tasks(call: ast.Call) -> bool:
    """`insert(tasks)`, `update(tasks)`, `delete(tasks)`, `tasks.delete()` and the like."""
    if isinstance(call.func, ast.Name) and call.func.id.split("_")[0] in ("insert", "update", "delete"):
        return any(isinstance(argument, ast.Name) and argument.id == "tasks" for argument in call.args)
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in ("insert", "update", "delete")
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "tasks"
    )


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("sqlalchemy", SQL_ROOMS),
        ("redis", REDIS_ROOMS),
        ("flask", FLASK_ROOMS),
        ("rq_dashboard", FLASK_ROOMS),
        ("prefect", PREFECT_ROOMS),
    ],
)
def test_a_library_is_known_only_in_its_rooms(library: str, rooms: tuple[str, ...]) -> None:
    users = {
        module
        for module, tree in modules()
        if any(target.split(".")[0] == library for target in imports(tree))
    }
    assert {user for user in users if not inside(user, rooms)} == set()


def test_only_config_reads_the_environment() -> None:
    readers = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                readers.add(module)
    assert readers - {"app.embedded_redis_launch"} == {"config"}


def test_importing_the_core_loads_no_flask() -> None:
    code = "import sys, app.tasks.queue, app.tasks.healing, app.tasks.runner; print('flask' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "False"


def test_no_room_has_outgrown_itself() -> None:
    """About 400 lines a file, 40 a function."""
    long_files, long_functions = [], []
    for module, tree in modules():
        last = max(
            (node.end_lineno or 0 for node in ast.walk(tree) if hasattr(node, "end_lineno")), default=0
        )
        if last > 420:
            long_files.append(f"{module}: {last}")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 45 and "migrations" not in module:
                    long_functions.append(f"{module}.{node.name}: {length}")
    assert long_files == []
    assert long_functions == []
