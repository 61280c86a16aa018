"""Handlers by name: the closed list of what may run, and how each is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from app.tasks import handlers
from app.tasks.errors import InvalidTask, UnknownTaskName
from app.tasks.handlers import Handler, HandlerRegistry, TaskContext, load_handlers, task, to_json
from app.tasks.model import OnLost, Priority
from app.tasks.settings import CoreSettings

Write = Callable[[str, str], str]


class Letter(BaseModel):
    to: str


def first(payload: Any) -> str:
    return "first"


def second(payload: Any) -> str:
    return "second"


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test declares is forgotten with it."""
    monkeypatch.setattr(handlers, "_declared", HandlerRegistry())


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes importable modules that are forgotten with the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name: str, body: str) -> str:
        path = tmp_path.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent != tmp_path:
            (path.parent / "__init__.py").touch()
        path.with_suffix(".py").write_text(f"from app.tasks.handlers import task\n{body}")
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("of_this_test"):
            del sys.modules[name]


def declaring(name: str) -> str:
    return f"@task({name!r})\ndef run(payload):\n    return {name!r}\n"


# --- the registry ------------------------------------------------------------------------------------


def test_a_name_finds_its_handler_and_no_other_name_does() -> None:
    registry = HandlerRegistry([Handler("one", first, TypeAdapter(Any))])
    assert registry["one"].function is first
    assert registry.find("two") is None
    assert ("one" in registry, "two" in registry, len(registry), list(registry)) == (True, False, 1, ["one"])
    for name in ("two", "", None, ["one"]):
        with pytest.raises(UnknownTaskName):
            registry[name]  # type: ignore[index]


def test_one_name_for_two_functions_is_refused() -> None:
    task("job")(first)
    task("job")(first)  # the same module imported under the same name again
    with pytest.raises(ValueError, match="'job' belongs to"):
        task("job")(second)


def test_a_declaration_keeps_its_rules() -> None:
    declared = task(
        "job", payload=Letter, timeout_seconds=9, max_retries=0, retry_base_seconds=0.5, on_lost="park"
    )(first)
    assert declared is first
    handler = handlers._declared["job"]
    assert (handler.timeout_seconds, handler.max_retries, handler.retry_base_seconds) == (9, 0, 0.5)
    assert handler.on_lost is OnLost.PARK
    assert handler.parse({"to": "ann"}) == Letter(to="ann")
    assert handler.parse_json('{"to":"ann"}') == Letter(to="ann")


def test_a_wrong_rule_is_refused_at_the_declaration() -> None:
    with pytest.raises(ValueError, match="maybe"):
        task("job", on_lost="maybe")(first)


def test_a_function_gets_the_context_only_if_it_takes_one() -> None:
    seen: list[Any] = []

    def with_context(payload: Any, context: TaskContext) -> None:
        seen.append((payload, context.task_id))

    def without(payload: Any) -> None:
        seen.append(payload)

    task("with")(with_context)
    task("without")(without)
    context = TaskContext(7, 1, None, None)  # type: ignore[arg-type]
    handlers._declared["with"].call(1, context)
    handlers._declared["without"].call(2, context)
    assert seen == [(1, 7), 2]


@pytest.mark.parametrize("text", ['{"to":1}', "{}", "[", ""])
def test_a_payload_that_does_not_fit_names_its_path(text: str) -> None:
    handler = Handler("job", first, TypeAdapter(Letter))
    with pytest.raises(InvalidTask) as refused:
        handler.parse_json(text)
    assert refused.value.problems[0].field.startswith("payload")


# --- loading -----------------------------------------------------------------------------------------


def test_only_what_the_named_modules_declare_may_run(module: Write) -> None:
    named = module("of_this_test.named", declaring("named"))
    module("of_this_test.other", declaring("other"))
    __import__("of_this_test.other")
    assert list(load_handlers([named])) == ["named"]
    assert sorted(load_handlers([named, "of_this_test.other"])) == ["named", "other"]


def test_a_package_stands_for_all_modules_below_it_and_for_none_beside_it(module: Write) -> None:
    module("of_this_test.deep.inner", declaring("inner"))
    module("of_this_test_too", declaring("beside"))
    __import__("of_this_test.deep.inner")
    __import__("of_this_test_too")
    assert list(load_handlers(["of_this_test"])) == ["inner"]


def test_a_module_that_cannot_be_imported_is_named(module: Write) -> None:
    with pytest.raises(ImportError, match="of_this_test_missing"):
        load_handlers(["of_this_test_missing"])


# --- results -----------------------------------------------------------------------------------------


def test_a_result_is_short_json_of_any_language() -> None:
    assert to_json({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert to_json(Letter(to="☃")) == '{"to":"☃"}'


# --- rules in the settings ---------------------------------------------------------------------------


def test_the_nearest_rule_counts() -> None:
    plain = Handler("job", first, TypeAdapter(Any))
    strict = Handler("job", first, TypeAdapter(Any), timeout_seconds=5, max_retries=0)
    settings = CoreSettings(
        default_timeout_seconds=60, max_retries=3, priority_timeout_seconds={Priority.LOW: 30}
    )
    assert settings.time_limit(strict, Priority.LOW, 1) == 1
    assert settings.time_limit(strict, Priority.LOW, None) == 5
    assert settings.time_limit(plain, Priority.LOW, None) == 30
    assert settings.time_limit(None, Priority.HIGH, None) == 60
    limits = [
        settings.retry_limit(strict, 2),
        settings.retry_limit(strict, 0),
        settings.retry_limit(strict, None),
    ]
    assert limits == [2, 0, 0]
    assert [settings.retry_limit(plain, None), settings.retry_limit(None, None)] == [3, 3]
