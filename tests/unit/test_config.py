"""What operators rely on in the settings: names, defaults, precedence and clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import config
from config import Config, ConfigError

TOKENS: dict[str, Any] = {"ADMIN_TOKEN": "a", "API_TOKEN": "b", "SECRET_KEY": "c"}


def refusal(*, variables: dict[str, str] | None = None, **overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.for_tests(variables, **overrides)
    return str(caught.value)


def test_env_example_lists_exactly_the_settings_with_their_defaults() -> None:
    assert (config.ROOT / ".env.example").read_text() == config.example()


def test_env_example_used_as_env_file_changes_nothing() -> None:
    from_file = Config(_env_file=config.ROOT / ".env.example", _environment={})
    assert from_file.model_dump() == Config.for_tests().model_dump()


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("APP_ENV", "development"),
        ("RQ_ENABLED", True),
        ("RQ_HYBRID_MODE", False),
        ("RQ_ROLLOUT_PERCENT", 100),
        ("RQ_WORKER_MODE", "integrated"),
        ("RQ_WORKER_COUNT", 2),
        ("RQ_DEFAULT_TIMEOUT", 3600),
        ("RQ_RESULT_TTL", 86400),
        ("RQ_MAX_RETRIES", 3),
        ("RQ_RETRY_BASE_SECONDS", 60),
        ("RQ_RETRY_CAP_SECONDS", 3600),
        ("RQ_QUEUE_PREFIX", ""),
        ("RQ_TICKET_WINDOW", 100000),
        ("RQ_LEASE_SECONDS", 30),
        ("RQ_TICKET_GRACE", 30),
        ("RQ_SHUTDOWN_TIMEOUT", 30),
        ("RQ_MONITORING_ENABLED", True),
        ("RQ_HEALTH_CHECK_INTERVAL", 30),
        ("RQ_CLEANUP_INTERVAL", 3600),
        ("RQ_FALLBACK_ENABLED", True),
        ("RQ_FALLBACK_TIMEOUT", 30),
        ("RQ_REDIS_HEALTH_CHECK_INTERVAL", 30),
        ("MAX_ACTIVE_TASKS_PER_USER", 0),
        ("QUEUE_SIZE_LIMIT", 0),
        ("DB_POOL_SIZE", 5),
        ("DB_MAX_OVERFLOW", 10),
        ("TASK_MODULES", ("app.handlers",)),
        ("PREFECT_WORK_POOL", "twintrack"),
        ("PREFECT_CONCURRENCY_LIMIT", 10),
        ("MIGRATION_SOURCE", None),
        ("PORT", 8000),
    ],
)
def test_documented_defaults(name: str, default: object) -> None:
    assert getattr(Config.for_tests(), name) == default


def test_environment_wins_over_env_file_which_wins_over_default(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RQ_WORKER_COUNT=7\nRQ_MAX_RETRIES=5\nDB_POOL_SIZE=\n")
    settings = Config(_env_file=file, _environment={"RQ_WORKER_COUNT": "9"})
    assert (settings.RQ_WORKER_COUNT, settings.RQ_MAX_RETRIES, settings.DB_POOL_SIZE) == (9, 5, 5)
    origins = [settings.origin(name) for name in ("RQ_WORKER_COUNT", "RQ_MAX_RETRIES", "DB_POOL_SIZE")]
    assert origins == ["environment", ".env", "default"]


def test_arguments_win_over_everything_and_none_asks_for_the_default() -> None:
    variables = {"RQ_WORKER_COUNT": "9", "RQ_MAX_RETRIES": "9"}
    settings = Config.for_tests(variables, RQ_WORKER_COUNT=1, RQ_MAX_RETRIES=None)
    assert (settings.RQ_WORKER_COUNT, settings.RQ_MAX_RETRIES) == (1, 3)
    assert settings.origin("RQ_WORKER_COUNT") == "argument"


def test_older_spellings_are_read() -> None:
    settings = Config.for_tests({"PREFECT_ENVIRONMENT": "Staging", "REDIS_URL": "redis://h/1"})
    assert (settings.APP_ENV, settings.RQ_REDIS_URL) == ("staging", "redis://h/1")


def test_older_spelling_in_the_environment_wins_over_newer_one_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RQ_REDIS_URL=redis://file/0\n")
    settings = Config(_env_file=file, _environment={"REDIS_URL": "redis://environment/0"})
    assert settings.RQ_REDIS_URL == "redis://environment/0"


def test_env_file_is_taken_literally(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("ADMIN_TOKEN='a$HOME#b'\nexport API_TOKEN=x${Y}\n")
    settings = Config(_env_file=file, _environment={})
    assert (settings.ADMIN_TOKEN, settings.API_TOKEN) == ("a$HOME#b", "x${Y}")


def test_unreadable_line_of_the_env_file_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RQ_ENABLED=true\nRQ_MAX_RETRIES='5\n")
    with pytest.raises(ConfigError, match=r"Line 2 of .*\.env is not NAME=value\."):
        Config(_env_file=file, _environment={})


@pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", "Yes"])
def test_words_for_true(word: str) -> None:
    assert Config.for_tests({"RQ_HYBRID_MODE": word}).RQ_HYBRID_MODE is True


@pytest.mark.parametrize("word", ["false", "0", "no", "off", "OFF", "False"])
def test_words_for_false(word: str) -> None:
    assert Config.for_tests({"RQ_ENABLED": word}).RQ_ENABLED is False


@pytest.mark.parametrize("word", ["maybe", "2", "tru", "y", "none"])
def test_unknown_word_for_a_flag_stops_the_start_with_one_sentence(word: str) -> None:
    message = refusal(variables={"RQ_ENABLED": word})
    assert message == f"RQ_ENABLED must be one of true, 1, yes, on, false, 0, no, off, not '{word}'."


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PORT", "eighty", "must be a whole number, not 'eighty'."),
        ("PORT", "1.5", "must be a whole number, not '1.5'."),
        ("PORT", "65536", "must be at most 65535, not '65536'."),
        ("RQ_ROLLOUT_PERCENT", "-1", "must be at least 0, not '-1'."),
        ("RQ_LEASE_SECONDS", "0", "must be at least 0.05, not '0'."),
        ("RQ_LEASE_SECONDS", "nan", "must be a finite number, not 'nan'."),
        ("RQ_LEASE_SECONDS", "soon", "must be a number, not 'soon'."),
        ("RQ_WORKER_MODE", "both", "must be 'integrated', 'external' or 'hybrid', not 'both'."),
        ("PRIORITY_FALLBACK", "medium", "must be 'urgent', 'high', 'normal' or 'low', not 'medium'."),
        ("DATABASE_URL", "oracle://u:p@h/d", "must start with sqlite://, mysql+pymysql:// or "),
        ("DATABASE_URL", "nonsense", "must be a database URL such as "),
        ("DATABASE_URL", "mysql://u:p@h:port/d", "must be a database URL such as "),
        ("RQ_REDIS_URL", "http://h", "must match "),
        ("TASK_MODULES", "a;rm", "must match "),
        ("RQ_QUEUE_PREFIX", "with space", "must match "),
    ],
)
def test_wrong_value_is_refused_by_name(name: str, value: str, reason: str) -> None:
    message = refusal(variables={name: value})
    assert message.startswith(f"{name} {reason}")
    assert "\n" not in message


def test_refusal_names_the_variable_that_was_written() -> None:
    assert refusal(variables={"REDIS_URL": "ftp://h"}).startswith("REDIS_URL must ")


def test_all_problems_are_told_at_once() -> None:
    message = refusal(variables={"PORT": "x", "RQ_ENABLED": "x", "RQ_HYBIRD_MODE": "1"})
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("RQ_HYBIRD_MODE", "RQ_HYBRID_MODE"),
        ("RQ_MAX_RETRY", "RQ_MAX_RETRIES"),
        ("RQ_REDIS_URI", "RQ_REDIS_URL"),
        ("ALERT_FAILED_WARN", "ALERT_FAILED_WARNING"),
        ("DB_POOLSIZE", "DB_POOL_SIZE"),
        ("TASK_MODULE", "TASK_MODULES"),
        ("OLLAMA_MODLE", "OLLAMA_MODEL"),
    ],
)
def test_misspelt_setting_stops_the_start(wrong: str, right: str) -> None:
    assert refusal(variables={wrong: "1"}) == f"Unknown setting {wrong}. Did you mean {right}?"


def test_misspelt_setting_in_the_env_file_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RQ_WORKER_COUNTS=3\n")
    with pytest.raises(ConfigError, match=r"Did you mean RQ_WORKER_COUNT\?"):
        Config(_env_file=file, _environment={})


@pytest.mark.parametrize(
    "name",
    [
        *("RQ_KEY_PREFIX", "RQ_CONFIG", "RQ_WORKER_ID", "RQ_JOB_ID", "RQ_EXECUTION_ID", "RQ_WORKER_CLASS"),
        *("RQ_DASHBOARD_REDIS_URL", "OLLAMA_MODELS", "OLLAMA_HOST", "DB_HOST", "MAX_JOBS", "DATABASE_NAME"),
        *("DATABASE_URL_TEST", "HTTP_PROXY", "SURVEY_MAX_RETRIES", "APP_TOKEN", "PORTS"),
    ],
)
def test_variables_of_other_programs_pass(name: str) -> None:
    assert Config.for_tests({name: "x"}).variable(name) == "x"


def test_unknown_argument_is_refused() -> None:
    assert refusal(RQ_COLOUR="red") == "RQ_COLOUR is not a setting, not 'red'."


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config.for_tests().PORT = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("written", "used"),
    [
        ("mysql://u:p%40s@h:1/d", "mysql+pymysql://u:p%40s@h:1/d"),
        ("mariadb://u@h/d", "mysql+pymysql://u@h/d"),
        ("mysql+mysqldb://u@h/d", "mysql+mysqldb://u@h/d"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d?x=y", "postgresql+psycopg://u@h/d?x=y"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("sqlite:///x.db", f"sqlite:///{config.ROOT}/x.db"),
        ("sqlite://", "sqlite://"),
    ],
)
def test_database_url_gets_a_driver_and_an_absolute_file(written: str, used: str) -> None:
    assert Config.for_tests(DATABASE_URL=written).DATABASE_URL == used


def test_folders_follow_var_dir(tmp_path: Path) -> None:
    settings = Config.for_tests(VAR_DIR=tmp_path)
    assert f"sqlite:///{tmp_path}/twintrack.db" == settings.DATABASE_URL
    assert settings.DESCRIBE_FOLDERS == (tmp_path / "pictures",)
    assert Config.for_tests(VAR_DIR="here").VAR_DIR == config.ROOT / "here"


def test_lists_are_split() -> None:
    settings = Config.for_tests({"TASK_MODULES": "a.b, c", "DESCRIBE_FOLDERS": f"/x{os.pathsep}y"})
    assert settings.TASK_MODULES == ("a.b", "c")
    assert settings.DESCRIBE_FOLDERS == (Path("/x"), config.ROOT / "y")


def test_redis_url_always_resolves_to_the_embedded_socket() -> None:
    settings = Config.for_tests(VAR_DIR="/srv/v a")
    assert settings.RQ_REDIS_URL == "unix:///srv/v%20a/redis/redis.sock"
    assert settings.embedded_redis_socket == Path("/srv/v a/redis/redis.sock")
    assert settings.embedded_redis
    assert not Config.for_tests(RQ_REDIS_URL="redis://h/0").embedded_redis


def test_long_var_dir_gets_a_short_socket_of_its_own() -> None:
    first, second = (Config.for_tests(VAR_DIR="/srv/" + letter * 120) for letter in "ab")
    assert len(os.fsencode(first.embedded_redis_socket)) < 107
    assert first.embedded_redis_socket != second.embedded_redis_socket
    assert first.embedded_redis


@pytest.mark.parametrize(
    ("settings", "mode", "percent", "pollers"),
    [
        ({}, "redis", 100, False),
        ({"RQ_ROLLOUT_PERCENT": 5}, "redis", 100, False),
        ({"DATABASE_POLLING_ENABLED": True}, "redis", 100, True),
        ({"RQ_HYBRID_MODE": True}, "hybrid", 100, True),
        ({"RQ_HYBRID_MODE": True, "RQ_ROLLOUT_PERCENT": 5}, "hybrid", 5, True),
        ({"RQ_HYBRID_MODE": True, "DATABASE_POLLING_ENABLED": False}, "hybrid", 100, False),
        ({"RQ_ENABLED": False}, "database", 0, True),
        ({"RQ_ENABLED": False, "RQ_HYBRID_MODE": True}, "database", 0, True),
    ],
)
def test_mode(settings: dict[str, Any], mode: str, percent: int, pollers: bool) -> None:
    chosen = Config.for_tests(**settings)
    assert (chosen.mode, chosen.redis_percent, chosen.pollers_enabled) == (mode, percent, pollers)


def test_settings_that_leave_no_worker_are_refused() -> None:
    assert "nobody to run tasks" in refusal(RQ_ENABLED=False, DATABASE_POLLING_ENABLED=False)


def test_each_priority_can_have_its_own_timeout() -> None:
    settings = Config.for_tests(RQ_DEFAULT_TIMEOUT=10, RQ_TIMEOUT_URGENT=2)
    assert [settings.timeout_seconds(name) for name in ("urgent", "high", "low")] == [2, 10, 10]


def test_production_names_every_missing_token_in_one_error() -> None:
    message = refusal(APP_ENV="production", API_TOKEN="x")
    assert message.startswith("Production needs ADMIN_TOKEN, SECRET_KEY: ")
    assert Config.for_tests(APP_ENV="production", **TOKENS).production


def test_milder_critical_threshold_is_refused() -> None:
    assert refusal(ALERT_FAILED_CRITICAL=99).startswith("ALERT_FAILED_CRITICAL must not be milder")
    assert refusal(ALERT_SUCCESS_RATE_CRITICAL=91).startswith("ALERT_SUCCESS_RATE_CRITICAL must not")
    assert Config.for_tests(ALERT_FAILED_CRITICAL=100).ALERT_FAILED_CRITICAL == 100


def test_no_secret_is_shown() -> None:
    secret = "hush"
    settings = Config.for_tests(
        ADMIN_TOKEN=secret,
        API_TOKEN=secret,
        SECRET_KEY=secret,
        ALERT_WEBHOOK_URL=f"https://h/{secret}",
        DATABASE_URL=f"mysql://u:{secret}/{secret}@h/d?password={secret}",
        RQ_REDIS_URL=f"redis://:{secret}@h/0",
        OLLAMA_URL=f"http://u:{secret}@h",
    )
    assert secret not in repr(settings) + str(settings)
    assert settings.shown("DATABASE_URL") == "mysql+pymysql://***@h/d?***"


@pytest.mark.parametrize("name", [*TOKENS, "DATABASE_URL", "RQ_REDIS_URL", "OLLAMA_URL", "ALERT_WEBHOOK_URL"])
def test_refusal_never_shows_a_secret(name: str) -> None:
    message = refusal(variables={name: "hush://u:hush@h/hush", "PORT": "x", "APP_ENV": "production"})
    assert "hush" not in message


def test_refusal_carries_no_hidden_traceback() -> None:
    with pytest.raises(ConfigError) as caught:
        Config.for_tests(PORT="hush")
    assert caught.value.__context__ is None


def run_config(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "config", *arguments],
        cwd=config.ROOT,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_lists_every_setting_with_its_origin() -> None:
    done = run_config(RQ_WORKER_COUNT="5", ADMIN_TOKEN="hush")
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert list(rows) == list(Config.model_fields)
    assert rows["RQ_WORKER_COUNT"] == ["5", "environment"]
    assert rows["ADMIN_TOKEN"] == ["(hidden)", "environment"]


def test_command_says_what_is_wrong_and_nothing_else() -> None:
    done = run_config(RQ_ENABLED="perhaps")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
