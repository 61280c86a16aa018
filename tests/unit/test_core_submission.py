"""The checks of a submission that need no database: each wrong field is named, all of them at once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.tasks.errors import InvalidTask, PayloadTooLarge, UnknownPriority, UnknownTaskName
from app.tasks.handlers import Handler, HandlerRegistry
from app.tasks.ids import IdSource
from app.tasks.model import PRIORITIES, NewTask, Priority
from app.tasks.settings import CoreSettings
from app.tasks.submission import RequestCheck, TaskRequest

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


class Letter(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: str = Field(min_length=1)
    pages: list[int] = []


def nothing(payload: Any) -> None:
    """A handler that does nothing."""


HANDLERS = HandlerRegistry(
    [
        Handler("letter", nothing, TypeAdapter(Letter)),
        Handler("anything", nothing, TypeAdapter(Any)),
    ]
)


def check(**columns: Any) -> NewTask:
    settings = columns.pop("settings", CoreSettings(payload_limit_bytes=200))
    wanted = {"name": "anything"} | columns
    check = RequestCheck(HANDLERS, settings, IdSource(), lambda: NOW, lane_of_pool={"etl": 20_001}.get)
    return check(TaskRequest(**wanted))


def fields_of(**columns: Any) -> list[str]:
    with pytest.raises(InvalidTask) as refused:
        check(**columns)
    return [problem.field for problem in refused.value.problems]


def test_a_bare_wish_gets_the_usual_values() -> None:
    new = check()
    assert (new.name, new.payload, new.priority) == ("anything", "{}", Priority.NORMAL)
    assert (new.user_id, new.run_at, new.idempotency_key) == (None, None, None)
    assert new.task_id > 0


@pytest.mark.parametrize("name", ["", "Anything", "anything ", "os.system", None, 7, ["anything"], {}])
def test_a_name_without_a_handler_is_refused(name: Any) -> None:
    with pytest.raises(UnknownTaskName) as refused:
        check(name=name)
    assert [problem.field for problem in refused.value.problems] == ["name"]


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        ({}, ["payload.to"]),
        ({"to": ""}, ["payload.to"]),
        ({"to": 1, "pages": [1, "x", 3]}, ["payload.to", "payload.pages.1"]),
        ({"to": "ann", "colour": "red"}, ["payload.colour"]),
        ([], ["payload"]),
        ("text", ["payload"]),
    ],
)
def test_each_wrong_part_of_a_payload_is_named_by_its_path(payload: Any, fields: list[str]) -> None:
    assert fields_of(name="letter", payload=payload) == fields


def circle() -> list[Any]:
    """A list that holds itself."""
    ring: list[Any] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    "payload",
    [
        {"x": {1, 2}},
        {"x": object()},
        {"x": b"bytes"},
        {"x": float("nan")},
        {"x": float("-inf")},
        {"x": "\ud800"},
        {"\udfff": 1},
        {(1, 2): "x"},
        {"x": datetime(2026, 1, 1, tzinfo=UTC)},
        circle(),
        10**5000,
    ],
    ids=lambda payload: repr(payload)[:25] if not isinstance(payload, int) else "huge number",
)
def test_what_json_cannot_hold_is_refused(payload: Any) -> None:
    assert fields_of(payload=payload) == ["payload"]


def test_a_payload_nested_too_deep_is_refused() -> None:
    deep: Any = 0
    for _ in range(200_000):
        deep = [deep]
    try:
        assert fields_of(payload=deep, settings=CoreSettings()) == ["payload"]
    finally:
        while deep:  # taken apart here: Python would do it recursively
            deep = deep[0]


def test_text_of_any_language_and_control_characters_are_kept() -> None:
    payload = {"text": "Zoë ☃ 𝄞 \x00 \x1f \u2028"}
    new = check(payload=payload)
    assert json.loads(new.payload) == payload
    assert "\x00" not in new.payload


def test_the_size_of_a_payload_counts_in_bytes() -> None:
    exact = "☃" * 66  # 198 bytes and two quotes
    assert check(payload=exact).payload == f'"{exact}"'
    with pytest.raises(PayloadTooLarge) as refused:
        check(payload=exact + "x")
    assert (refused.value.size_bytes, refused.value.limit_bytes) == (201, 200)


@pytest.mark.parametrize("field", ["user_id", "idempotency_key"])
@pytest.mark.parametrize(
    "value", ["", " ", "a\n", "a\x00b", "a\ud800", "x" * 129, " ann", "ann ", 7, b"ann", ["ann"]]
)
def test_a_key_that_databases_would_read_differently_is_refused(field: str, value: Any) -> None:
    assert fields_of(**{field: value}) == [field]


@pytest.mark.parametrize("value", ["a", "x" * 128, "Zoë Müller", "mailto:ann@example.org", "日本"])
def test_a_key_of_printable_characters_is_taken(value: str) -> None:
    new = check(user_id=value, idempotency_key=value)
    assert (new.user_id, new.idempotency_key) == (value, value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_retries", -1),
        ("max_retries", 1001),
        ("max_retries", "3"),
        ("max_retries", 1.5),
        ("max_retries", True),
        ("timeout_seconds", 0),
        ("timeout_seconds", 7 * 86_400 + 1),
        ("timeout_seconds", None),
        ("timeout_seconds", float("nan")),
    ],
)
def test_a_number_out_of_its_bounds_is_refused(field: str, value: Any) -> None:
    if value is None:
        assert check(**{field: value}).timeout_seconds is None
    else:
        assert fields_of(**{field: value}) == [field]


def test_the_bounds_themselves_are_taken() -> None:
    new = check(max_retries=0, timeout_seconds=1)
    assert (new.max_retries, new.timeout_seconds) == (0, 1)
    new = check(max_retries=1000, timeout_seconds=7 * 86_400)
    assert (new.max_retries, new.timeout_seconds) == (1000, 604_800)


@pytest.mark.parametrize(
    "run_at",
    [
        datetime(2026, 8, 1),  # noqa: DTZ001 - a time without zone is what is refused
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        "2026-08-01T00:00:00Z",
        1_800_000_000,
    ],
    ids=["no zone", "end of the calendar", "text", "number"],
)
def test_a_time_that_names_no_moment_is_refused(run_at: Any) -> None:
    assert fields_of(run_at=run_at) == ["run_at"]


def test_a_later_time_is_kept_as_utc_and_an_earlier_one_means_now() -> None:
    east = timezone(timedelta(hours=9))
    later = NOW + timedelta(seconds=1)
    new = check(run_at=later.astimezone(east))
    assert new.run_at == later
    assert new.run_at is not None
    assert new.run_at.tzinfo is UTC
    for earlier in (NOW, NOW - timedelta(days=400), datetime.min.replace(tzinfo=UTC)):
        assert check(run_at=earlier).run_at is None


@pytest.mark.parametrize("value", ["soon", "", "URGENT", 1, ["urgent"], "x" * 500])
def test_an_unknown_priority_is_refused_or_replaced_as_the_settings_say(value: Any) -> None:
    with pytest.raises(UnknownPriority) as refused:
        check(priority=value)
    assert [problem.field for problem in refused.value.problems] == ["priority"]
    assert len(str(refused.value)) < 200
    lenient = CoreSettings(priority_fallback=Priority.LOW)
    assert check(priority=value, settings=lenient).priority is Priority.LOW


@pytest.mark.parametrize("value", [*PRIORITIES, *(priority.value for priority in PRIORITIES)])
def test_a_priority_may_be_given_as_a_word(value: str) -> None:
    assert check(priority=value).priority is Priority(value)


def test_all_wrong_fields_are_named_together() -> None:
    fields = fields_of(
        name="letter",
        payload={"pages": "many"},
        priority="soon",
        user_id="",
        idempotency_key="x" * 200,
        run_at=datetime(2026, 8, 1),  # noqa: DTZ001
        max_retries=-1,
        timeout_seconds=0,
    )
    assert fields == [
        "payload.to",
        "payload.pages",
        "priority",
        "user_id",
        "idempotency_key",
        "run_at",
        "max_retries",
        "timeout_seconds",
    ]
