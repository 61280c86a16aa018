"""The lookup of a flow's settings. Tests that prove a feature row begin with its number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from app.distributed import ConfigManager, flow_settings
from app.distributed.variables import StoredVariables, WrongVariable
from app.tasks.database import Database
from config import Config, ConfigError
from scripts import variables as command
from tests.contract.parts import at_once
from tests.contract.rows import Rows

# From the strongest place to the weakest.
PLACES = (
    *("SURVEY_MAX_RETRIES", "STAGING_SURVEY_MAX_RETRIES"),
    *("STAGING_GLOBAL_MAX_RETRIES", "GLOBAL_MAX_RETRIES"),
    *("staging.survey.max_retries", "staging.global.max_retries", "global.max_retries"),
    *("DISTRIBUTED_PROCESSOR_MAX_RETRIES", "STAGING_DISTRIBUTED_PROCESSOR_MAX_RETRIES"),
    "staging.distributed_processor.max_retries",
)
FLAGS = {
    "true": True,
    "1": True,
    "YES": True,
    "on": True,
    "false": False,
    "0": False,
    "No": False,
    "OFF": False,
}


def manager(rows: Rows, environment: Mapping[str, str], flow: str = "survey") -> ConfigManager:
    config = Config.for_tests({"APP_ENV": "staging", **environment})
    return ConfigManager(flow, config=config, database=rows.database)


def store(rows: Rows, **values: str) -> None:
    for name, value in values.items():
        StoredVariables(rows.database).set(name, value)


def test_001_13_each_place_wins_over_all_that_follow_it_and_the_trace_names_it(rows: Rows) -> None:
    for first in range(len(PLACES)):
        given = {name: str(number) for number, name in enumerate(PLACES) if number >= first}
        rows.empty()
        store(rows, **{name: text for name, text in given.items() if "." in name})
        found = manager(rows, {name: text for name, text in given.items() if "." not in name})
        assert found.get_variable("max_retries") == first
        places = found.trace("max_retries")
        assert tuple(place.name for place in places) == (*PLACES, "default")
        assert next(place for place in places if place.text is not None).name == PLACES[first]


def test_001_13_nothing_set_gives_the_default_of_the_key_or_of_the_caller(rows: Rows) -> None:
    found = manager(rows, {})
    assert found.get_variable("max_retries") == 3
    assert found.get_variable("max_retries", 9) == 9
    assert found.get_variable("house_number") is None
    assert found.get_variable("house_number", 12) == 12
    assert found.trace("max_retries")[-1].text == "3"


@pytest.mark.parametrize(("text", "value"), FLAGS.items())
def test_000_03_every_spelling_of_a_flag_works_from_the_environment_and_from_a_stored_variable(
    sqlite_rows: Rows, text: str, value: bool
) -> None:
    by_environment = manager(sqlite_rows, {"SURVEY_USE_DISTRIBUTED_PROCESSING": text})
    assert by_environment.get_variable("use_distributed_processing") is value
    store(sqlite_rows, **{"staging.survey.use_distributed_processing": text})
    assert manager(sqlite_rows, {}).get_variable("use_distributed_processing") is value
    assert manager(sqlite_rows, {}, flow="other").get_variable("use_distributed_processing") is False


def test_000_03_a_flag_that_is_turned_off_holds_from_the_next_question_on(rows: Rows) -> None:
    found = manager(rows, {})
    store(rows, **{"global.use_distributed_processing": "true"})
    assert found.get_variable("use_distributed_processing") is True
    store(rows, **{"global.use_distributed_processing": "off"})
    assert found.get_variable("use_distributed_processing") is False
    assert StoredVariables(rows.database).remove("global.use_distributed_processing")
    assert not StoredVariables(rows.database).remove("global.use_distributed_processing")
    assert StoredVariables(rows.database).all() == {}


@pytest.mark.parametrize("text", ["25", " 25 "])
def test_000_04_a_batch_size_given_as_text_is_a_number(sqlite_rows: Rows, text: str) -> None:
    found = manager(sqlite_rows, {"STAGING_SURVEY_DISTRIBUTED_BATCH_SIZE": text})
    assert found.get_variable("distributed_batch_size") == 25


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("distributed_batch_size", text) for text in ("0", "many", "2.5", "10001")),
        *(("use_distributed_processing", text) for text in ("maybe", "2")),
        *(("cleanup_timeout_hours", text) for text in ("-1", "nan", "soon")),
    ],
)
def test_a_text_that_cannot_be_read_is_told_with_the_name_of_its_variable(
    sqlite_rows: Rows, key: str, text: str
) -> None:
    name = f"SURVEY_{key.upper()}"
    with pytest.raises(ConfigError, match=f"^{name} must be .*not '{text}'"):
        manager(sqlite_rows, {name: text}).get_variable(key)


def test_an_unknown_key_is_read_as_the_type_of_its_default(sqlite_rows: Rows) -> None:
    found = manager(sqlite_rows, {"SURVEY_PAGES": "7", "SURVEY_SHARE": "0.5", "SURVEY_LOUD": "no"})
    assert found.get_variable("pages", 1) == 7
    assert found.get_variable("pages") == "7"
    assert found.get_variable("share", 1.0) == 0.5
    assert found.get_variable("loud", True) is False
    with pytest.raises(ConfigError, match="SURVEY_SHARE must be a whole number"):
        found.get_variable("share", 1)


def test_a_flow_is_spelled_as_a_variable_can(sqlite_rows: Rows) -> None:
    store(sqlite_rows, **{"staging.my_survey_2.max_retries": "8"})
    assert manager(sqlite_rows, {}, flow="My survey-2").get_variable("max-retries") == 8
    for wrong in ("", "---", "x" * 61):
        with pytest.raises(ConfigError, match="flow's name"):
            manager(sqlite_rows, {}, flow=wrong)


@pytest.mark.parametrize("name", ["max_retries", "test.survey.max_retries", "global.Max", "global.a.b.c", ""])
def test_a_name_that_no_lookup_asks_for_is_not_stored(sqlite_rows: Rows, name: str) -> None:
    with pytest.raises(WrongVariable, match="is no name of a variable"):
        StoredVariables(sqlite_rows.database).set(name, "1")
    with pytest.raises(WrongVariable, match=r"the value of global\.max_retries"):
        StoredVariables(sqlite_rows.database).set("global.max_retries", " ")


def test_many_who_store_one_variable_at_once_leave_one_of_their_values(rows: Rows) -> None:
    stored = StoredVariables(rows.database)
    work = [lambda n=n: stored.set("global.max_retries", str(n)) for n in range(8)]
    for _ in range(5):
        rows.execute("DELETE FROM variables")
        assert at_once(work) == [None] * 8
    assert stored.all()["global.max_retries"] in {str(n) for n in range(8)}


def test_a_manager_without_a_database_keeps_no_connection(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is made for each run of a flow."""
    made: list[Database] = []

    class Seen(Database):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(flow_settings, "Database", Seen)
    found = ConfigManager("survey", config=Config.for_tests(DATABASE_URL=rows.url))
    assert found.get_variable("max_retries") == 3
    assert ["Connections in pool: 0" in one._auto.pool.status() for one in made] == [True]


def test_a_database_without_tables_has_nothing_stored(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new.db'}")
    found = ConfigManager("survey", config=Config.for_tests(), database=database)
    assert found.get_variable("max_retries") == 3
    database.dispose()


def test_001_13_the_command_stores_lists_traces_and_removes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.setenv("APP_ENV", "staging")
    monkeypatch.setenv("SURVEY_MAX_RETRIES", "4")
    run = CliRunner().invoke
    assert run(command.main, ["set", "global.max_retries", "5"]).exit_code == 0
    refused = run(command.main, ["set", "global.max_retries", "five"])
    assert (refused.exit_code, "must be a whole number" in refused.output) == (2, True)
    assert json.loads(run(command.main, ["list", "--json"]).output) == {"global.max_retries": "5"}
    traced = json.loads(run(command.main, ["trace", "survey", "max_retries", "--json"]).output)["max_retries"]
    assert traced["value"] == 4
    assert {place["name"]: place["text"] for place in traced["places"] if place["text"]} == {
        "SURVEY_MAX_RETRIES": "4",
        "global.max_retries": "5",
        "default": "3",
    }
    assert "> SURVEY_MAX_RETRIES" in run(command.main, ["trace", "survey"]).output
    assert run(command.main, ["unset", "global.max_retries"]).exit_code == 0
    assert run(command.main, ["unset", "global.max_retries"]).exit_code == 1
