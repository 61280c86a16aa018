"""Schedules declared beside handlers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.system import build_system
from app.tasks.handlers import HandlerRegistry, load_handlers
from app.tasks.keys import PlannedRun
from app.tasks.recurring import declared_schedules
from config import Config

MODULE = """
from app.tasks.handlers import task
from app.tasks.recurring import recurring

@recurring(cron="0 6 * * *", time_zone="Europe/Berlin", payload={"kind": "daily"})
@task("reports.send")
def send(payload): ...

@task("reports.clean")
@recurring(interval_seconds=900, name="clean-often", overlap="allow", enabled=False)
@recurring(cron="@weekly", name="clean-weekly", priority="low")
def clean(payload): ...

@recurring(cron="@daily")
def nobody(payload): ...
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh importable module with the source that the test is parametrised with."""
    name = f"declares_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(getattr(request, "param", MODULE).replace("reports.", f"{name}."))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_declared_schedule_belongs_to_its_handler_above_or_below_the_task(module: str) -> None:
    found = {request.name: request for request in declared_schedules(load_handlers([module]))}
    assert set(found) == {f"{module}.send", "clean-often", "clean-weekly"}
    assert found[f"{module}.send"].time_zone == "Europe/Berlin"
    assert found["clean-often"].task == found["clean-weekly"].task == f"{module}.clean"
    assert (found["clean-often"].enabled, found["clean-often"].overlap) == (False, "allow")


def test_a_schedule_of_a_handler_that_may_not_run_is_none(module: str) -> None:
    load_handlers([module])
    assert declared_schedules(HandlerRegistry()) == ()


@pytest.mark.parametrize("module", [MODULE.replace("clean-often", "clean-weekly")], indirect=True)
def test_two_schedules_of_one_name_on_one_handler_are_refused(module: str) -> None:
    with pytest.raises(ValueError, match="clean-weekly"):
        declared_schedules(load_handlers([module]))


@pytest.mark.parametrize("module", [MODULE.replace("0 6 * * *", "0 6 * *")], indirect=True)
def test_a_wrong_declaration_stops_the_start_with_a_sentence_that_names_it(
    module: str, tmp_path: Path
) -> None:
    config = Config.for_tests(
        TASK_MODULES=[module], DATABASE_URL=f"sqlite:///{tmp_path}/a.db", RQ_ENABLED=False
    )
    with pytest.raises(ValueError, match=rf"{module}\.send.*cron: must be five fields"):
        build_system(config)


def test_the_key_of_a_planned_run_tells_it_again_and_other_keys_tell_nothing() -> None:
    run = PlannedRun.of_key("schedule:nightly:2026-01-31T06:00:00Z")
    assert run is not None
    assert (run.schedule, run.planned_at.isoformat()) == ("nightly", "2026-01-31T06:00:00+00:00")
    assert PlannedRun.of_key(run.key) == run
    for key in (None, "order-7", "schedule:", "schedule:x:yesterday", "schedule:x:2026-01-31T06:00:00"):
        assert PlannedRun.of_key(key) is None
