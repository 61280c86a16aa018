"""Rows of a legacy table that cannot become tasks, each named for its reason; and strange ones that can."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.tasks.queue import TaskQueue
from tests.contract.legacy.parts import CAPTIONS, ON_MARIADB, ON_POSTGRESQL, ON_SERVERS, by_key, imported
from tests.contract.rows import Rows
from tests.legacy_tables import CaptionQueue

FAULTS: dict[str, tuple[dict[str, Any], str, bool]] = {
    "broken JSON": ({"settings_json": '{"max_posts'}, "a column of the payload is not JSON", True),
    "half a character": (
        {"settings_json": '{"colour": "\\ud83d"}'},
        "a column of the payload is not JSON: settings_json",
        True,
    ),
    "extra key": ({"settings_json": '{"colour": 1}'}, "the handler refuses the payload", True),
    "wrong type": (
        {"settings_json": '{"max_posts_per_run": "ten"}'},
        "the handler refuses the payload",
        True,
    ),
    "missing user": ({"user_id": 99}, "the user is missing or inactive", True),
    "inactive user": ({"user_id": 3, "platform_connection_id": 3}, "the user is missing or inactive", True),
    "missing connection": ({"platform_connection_id": 99}, "the connection is missing or inactive", True),
    "another's connection": ({"platform_connection_id": 2, "user_id": 1}, "the connection is another", True),
    "status NULL": ({"status": None}, "the status is NULL", False),
    "key with a tab": ({"id": "a\tb"}, "the row's key cannot be part", True),
}


def test_every_fault_is_named_once_with_its_bytes_untouched(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    sound = legacy.put([legacy.row(1), legacy.row(2)])
    faulty = [legacy.row(3 + n, **changes) for n, (changes, _, _) in enumerate(FAULTS.values())]
    keys = dict(zip(FAULTS, legacy.put(faulty), strict=True))
    before = legacy.all()
    moving = imported(queue)
    assert (moving.moved, moving.quarantined) == (len(sound), len(FAULTS))
    assert {legacy.status(one) for one in sound} == {"MOVED"}
    after, tasks = legacy.all(), by_key(rows)
    for fault, (_, reason, fenced) in FAULTS.items():
        key = keys[fault]
        named = tasks.pop(key, None) or next(row for name, row in tasks.items() if name.startswith("#"))
        assert (fault, named["status"]) == (fault, "QUARANTINED")
        assert (fault, named["error"][: len(reason)]) == (fault, reason)
        assert (fault, after[key]) == (fault, before[key] | ({"status": "MOVED"} if fenced else {}))
    seen = rows.all()
    assert imported(queue).quarantined == 0
    assert rows.all() == seen


STRANGE: dict[str, dict[str, Any]] = {
    "four-byte characters": {"settings_json": '{"max_posts_per_run": 5}', "current_step": "\U0001f600" * 50},
    "no settings": {"settings_json": None},
    "long settings": {"settings_json": '{"max_posts_per_run": 5' + " " * 65_000 + "}"},
    "no time": {"created_at": None},
    "the future": {"created_at": "2031-01-01 00:00:00"},
    "not a UUID": {"id": "row number seven"},
    "upper case": {"id": "0C9F0C9F-ABCD"},
    "trailing blank": {"id": "trailing "},
    "started before": {"progress_percent": 40, "started_at": "2026-01-01 00:00:00"},
    "ended before": {"completed_at": "2026-01-01 00:00:00"},
    "no retry count": {"retry_count": None, "max_retries": None, "priority": None},
}


def test_what_is_only_strange_is_moved(rows: Rows, legacy: CaptionQueue, queue: TaskQueue) -> None:
    keys = legacy.put(legacy.row(n, **changes) for n, changes in enumerate(STRANGE.values()))
    assert imported(queue).moved == len(STRANGE)
    tasks = by_key(rows)
    assert {strange: legacy.status(key) for strange, key in zip(STRANGE, keys, strict=True)} == (
        dict.fromkeys(STRANGE, "MOVED")
    )
    assert set(tasks) == set(keys)
    assert all(rows.seconds_from_now(row["created_at"]) < 60 for row in tasks.values())


@ON_POSTGRESQL
@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("DOUBLE PRECISION", "NaN", "nan"),
        ("NUMERIC", "Infinity", "Infinity"),
        ("TIMESTAMP[]", "{2026-01-01}", ["2026-01-01T00:00:00"]),
    ],
)
def test_what_json_has_no_word_for_is_text_in_the_payload(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue, kind: str, value: str, told: Any
) -> None:
    legacy.execute(f"ALTER TABLE caption_generation_tasks ADD odd {kind} DEFAULT '{value}'")
    columns = CAPTIONS.payload.columns | {"caption_task_id": "odd"}
    payload = CAPTIONS.payload.model_copy(update={"columns": columns})
    [key] = legacy.put([legacy.row(1)])
    imported(queue, CAPTIONS.model_copy(update={"payload": payload}))
    assert json.loads(by_key(rows)[key]["payload"])["caption_task_id"] == told


@ON_MARIADB
def test_a_row_whose_table_refuses_the_mark_is_named_and_spoils_no_other(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(40))
    dangling = legacy.put([legacy.row(50, user_id=77), legacy.row(51, user_id=78)])
    legacy.with_foreign_keys()
    blind = CAPTIONS.model_copy(update={"fault": ()})
    moving = imported(queue, blind)
    assert (moving.moved, moving.quarantined) == (40, 2)
    assert {legacy.status(key) for key in keys} == {"MOVED"}
    assert {legacy.status(key) for key in dangling} == {"QUEUED"}
    named = {key for key, row in by_key(rows).items() if row["status"] == "QUARANTINED"}
    assert named == set(dangling)
    assert imported(queue, blind).moved == 0


STAYS = {
    "mysql": "CREATE TRIGGER their_own BEFORE UPDATE ON caption_generation_tasks FOR EACH ROW"
    " IF OLD.id = '{key}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'this one stays'; END IF",
    "postgresql": "CREATE OR REPLACE FUNCTION their_own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF OLD.id = '{key}' THEN RAISE EXCEPTION 'this one stays'; END IF; RETURN NEW; END $$;"
    " CREATE TRIGGER their_own BEFORE UPDATE ON caption_generation_tasks"
    " FOR EACH ROW EXECUTE FUNCTION their_own()",
}


@ON_SERVERS
def test_a_row_that_a_trigger_keeps_from_the_mark_is_named_and_spoils_no_other(
    rows: Rows, legacy: CaptionQueue, queue: TaskQueue
) -> None:
    keys = legacy.put(legacy.row(number) for number in range(5))
    legacy.execute(STAYS[rows.kind].replace("{key}", keys[3]))
    assert imported(queue).moved == 4
    assert by_key(rows)[keys[3]]["error"] == "the table refuses any change of the row's status"
    assert legacy.status(keys[3]) == "QUEUED"
