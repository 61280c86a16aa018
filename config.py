"""Every setting of Twintrack, read in this one place from the environment and from `.env`.

An environment variable wins over `.env`, which wins over the default; an empty value counts as not
set. Reading has no effect outside this module: nothing is created, opened or connected. What a value may
be is in `config_values`, what is said of a wrong one in `config_mistakes`.
`python -m config` lists all settings with their values and where each came from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from config_mistakes import ConfigError as ConfigError
from config_mistakes import sentence, typing_errors
from config_values import ROOT as ROOT
from config_values import (
    Count,
    DatabaseUrl,
    Flag,
    Folder,
    Folders,
    LogLevel,
    Modules,
    Positive,
    Prefix,
    Priority,
    RedisUrl,
    Seconds,
    Threshold,
    Tier,
    WebUrl,
    WholeSeconds,
    WorkerMode,
    as_text,
    masked,
)

ENV_FILE = ROOT / ".env"

ALIASES = {"APP_ENV": ("PREFECT_ENVIRONMENT",), "RQ_REDIS_URL": ("REDIS_URL",)}
SECRETS = frozenset({"ADMIN_TOKEN", "API_TOKEN", "SECRET_KEY", "PREFECT_API_KEY", "ALERT_WEBHOOK_URL"})
URLS = frozenset({"DATABASE_URL", "RQ_REDIS_URL", "OLLAMA_URL", "PREFECT_API_URL"})
REQUIRED_IN_PRODUCTION = ("ADMIN_TOKEN", "API_TOKEN", "SECRET_KEY")

# The kernel's limit for a socket's path is 107 bytes; the server's own temporary name needs some too.
SOCKET_PATH_LIMIT_BYTES = 90


def _embedded_socket(var_dir: Path) -> Path:
    socket = var_dir / "redis" / "redis.sock"
    if len(os.fsencode(socket)) <= SOCKET_PATH_LIMIT_BYTES:
        return socket
    digest = hashlib.blake2b(os.fsencode(var_dir), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"twintrack-{os.getuid()}-{digest}" / "redis.sock"


def _setting(default: Any, meaning: str) -> Any:
    return Field(default, description=meaning)


def _derived(from_earlier: Any, meaning: str) -> Any:
    return Field(default_factory=from_earlier, description=meaning)


class Config(BaseModel):
    """All settings, validated and unchangeable.

    `Config()` reads the environment and `.env`; keyword arguments override both (`None` asks for the
    default). `_env_file` names another file (None: no file), `_environment` another environment.
    Raises ConfigError with one sentence per problem.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    APP_ENV: Tier = _setting("development", "development, staging or production; also PREFECT_ENVIRONMENT")
    VAR_DIR: Folder = _setting(ROOT / "var", "folder of all files we keep; default: var beside config.py")
    HOST: str = _setting("127.0.0.1", "address the web app listens on")
    PORT: Annotated[int, Field(ge=0, le=65535)] = _setting(8000, "port of the web app; 0 takes a free one")
    ADMIN_TOKEN: str | None = _setting(None, "token of the admin pages; required in production")
    API_TOKEN: str | None = _setting(None, "token of the API; required in production")
    SECRET_KEY: str | None = _setting(None, "key that signs sessions; required in production")
    LOG_LEVEL: LogLevel = _setting("info", "debug, info, warning, error or critical")
    LOG_JSON: Flag = _setting(False, "true writes one JSON object per log line")

    DATABASE_URL: DatabaseUrl = _derived(
        lambda data: f"sqlite:///{data['VAR_DIR'] / 'twintrack.db'}",
        "mysql://, postgresql:// or sqlite:/// URL; default: a SQLite file in VAR_DIR",
    )
    DB_POOL_SIZE: Positive = _setting(5, "database connections each process keeps open")
    DB_MAX_OVERFLOW: Count = _setting(10, "database connections a process may open beyond those")
    RQ_REDIS_URL: RedisUrl = _derived(
        lambda data: f"unix://{quote(str(_embedded_socket(data['VAR_DIR'])))}",
        "redis://, rediss://, unix:// or sentinel:// URL; REDIS_URL works too; default: the embedded server",
    )

    RQ_ENABLED: Flag = _setting(True, "false turns Redis off: database mode")
    RQ_HYBRID_MODE: Flag = _setting(False, "true runs Redis and database workers side by side")
    DATABASE_POLLING_ENABLED: Flag | None = _setting(None, "pollers run; default: false in Redis mode only")
    RQ_ROLLOUT_PERCENT: Annotated[int, Field(ge=0, le=100)] = _setting(100, "share of Redis in hybrid mode")
    RQ_WORKER_MODE: WorkerMode = _setting("integrated", "integrated (in the web app), external, hybrid")
    RQ_WORKER_COUNT: Annotated[int, Field(ge=0, le=1024)] = _setting(2, "worker processes of one pool")
    RQ_ALLOW_FOREIGN_JOBS: Flag = _setting(False, "true leaves RQ jobs of others to TwintrackWorker")
    RQ_QUEUE_PREFIX: Prefix = _setting("", "put before each queue's name: rq:queue:<prefix><priority>")
    RQ_BATCH_SIZE: Annotated[int, Field(ge=1, le=500)] = _setting(100, "most tasks a worker takes at once")
    RQ_TICKET_WINDOW: Positive = _setting(100_000, "most tickets per queue that are in Redis at once")
    RQ_TICKET_GRACE: Seconds = _setting(30.0, "seconds before a missing ticket is pushed again")
    RQ_LEASE_SECONDS: Seconds = _setting(30.0, "seconds a worker keeps its claim without renewing it")
    RQ_SHUTDOWN_TIMEOUT: Seconds = _setting(30.0, "seconds a stopping worker waits for running tasks")

    RQ_ASYNC_CONCURRENCY: Positive = _setting(50, "async handlers one worker runs at a time; at most 512")

    RQ_KILL_GRACE: Seconds = _setting(
        10.0, "seconds a late or cancelled task has before its worker is killed"
    )
    RQ_WORKER_MEMORY_MB: Count = _setting(0, "memory at which a worker is replaced; 0: no limit")
    RQ_WORKER_MAX_TASKS: Count = _setting(0, "tasks after which a worker is replaced; 0: no limit")
    RQ_WORKER_MAX_AGE: Count = _setting(0, "seconds after which a worker is replaced; 0: no limit")

    RQ_DEFAULT_TIMEOUT: WholeSeconds = _setting(3600, "seconds a task may run; a handler can set its own")
    RQ_TIMEOUT_URGENT: WholeSeconds | None = _setting(None, "the same for urgent tasks")
    RQ_TIMEOUT_HIGH: WholeSeconds | None = _setting(None, "the same for high tasks")
    RQ_TIMEOUT_NORMAL: WholeSeconds | None = _setting(None, "the same for normal tasks")
    RQ_TIMEOUT_LOW: WholeSeconds | None = _setting(None, "the same for low tasks")
    RQ_RESULT_TTL: Count = _setting(86_400, "seconds that results stay in the rows")
    RQ_MAX_RETRIES: Annotated[int, Field(ge=0, le=1000)] = _setting(3, "retries after the first failure")
    RQ_RETRY_BASE_SECONDS: Threshold = _setting(60.0, "seconds before the first retry; doubles each time")
    RQ_RETRY_CAP_SECONDS: Threshold = _setting(3600.0, "longest wait in seconds before a retry")

    RQ_MONITORING_ENABLED: Flag = _setting(True, "watch queues and workers, raise alerts")
    RQ_HEALTH_CHECK_INTERVAL: Seconds = _setting(30.0, "seconds between health checks")
    RQ_CLEANUP_INTERVAL: Seconds = _setting(3600.0, "seconds between clean-ups")
    RQ_FALLBACK_ENABLED: Flag = _setting(True, "database pollers take over while Redis is away")
    RQ_FALLBACK_TIMEOUT: Seconds = _setting(30.0, "seconds after the first failed Redis call until they do")
    RQ_REDIS_HEALTH_CHECK_INTERVAL: Seconds = _setting(30.0, "seconds between looks whether Redis answers")

    TASK_MODULES: Modules = _setting(("app.handlers",), "modules whose handlers may run, with commas between")
    TASK_PAYLOAD_LIMIT_BYTES: Positive = _setting(262_144, "largest payload of one task")
    PRIORITY_FALLBACK: Priority | None = _setting(None, "stands for unknown ones; default: refuse them")
    MAX_ACTIVE_TASKS_PER_USER: Count = _setting(0, "active tasks a user may have; 0: no limit")
    RQ_USER_CONCURRENCY: Count = _setting(0, "tasks of one user that run at a time; 0: no limit")
    RQ_AGE_BONUS_SECONDS: Threshold = _setting(0.0, "waiting that moves a task up one priority; 0: none")
    QUEUE_SIZE_LIMIT: Count = _setting(0, "waiting tasks above which new ones are refused; 0: no limit")
    UPLOAD_LIMIT_BYTES: Positive = _setting(20_971_520, "largest file that can be sent to the web app")
    DESCRIBE_FOLDERS: Folders = _derived(
        lambda data: (data["VAR_DIR"] / "pictures",),
        f"folders whose pictures may be described, with {os.pathsep} between; default: VAR_DIR/pictures",
    )
    HTTP_ALLOW_PRIVATE: Flag = _setting(False, "true lets tasks call private network addresses")
    OLLAMA_URL: WebUrl | None = _setting(None, "address of an Ollama server that describes pictures")
    OLLAMA_MODEL: str | None = _setting(None, "model it uses")
    PREFECT_API_URL: WebUrl | None = _setting(None, "address of a Prefect server, which then runs the ETL")
    PREFECT_API_KEY: str | None = _setting(None, "key that it asks for")
    PREFECT_WORK_POOL: str = _setting("twintrack", "its work pool, of the type process")
    # The parent of an ETL holds a place while its tables run.
    PREFECT_CONCURRENCY_LIMIT: Annotated[int, Field(ge=2, le=10_000)] = _setting(
        10, "flow runs of that pool at a time; at least 2"
    )
    MIGRATION_SOURCE: str | None = _setting(None, "mapping file of a legacy table; default: our own")

    ALERT_WEBHOOK_URL: WebUrl | None = _setting(None, "address that receives alerts")
    ALERT_SUCCESS_RATE_WARNING: Threshold = _setting(90.0, "percent; below it")
    ALERT_SUCCESS_RATE_CRITICAL: Threshold = _setting(80.0, "percent; below it")
    ALERT_PROCESSING_RATE_WARNING: Threshold = _setting(50.0, "tasks per hour; below it")
    ALERT_PROCESSING_RATE_CRITICAL: Threshold = _setting(10.0, "tasks per hour; below it")
    ALERT_FAILED_WARNING: Threshold = _setting(100.0, "failed tasks; above it")
    ALERT_FAILED_CRITICAL: Threshold = _setting(500.0, "failed tasks; above it")
    ALERT_ORPHANED_WARNING: Threshold = _setting(10.0, "orphaned tasks; above it")
    ALERT_ORPHANED_CRITICAL: Threshold = _setting(50.0, "orphaned tasks; above it")
    ALERT_DATABASE_RESPONSE_WARNING: Threshold = _setting(1000.0, "milliseconds; above it")
    ALERT_DATABASE_RESPONSE_CRITICAL: Threshold = _setting(5000.0, "milliseconds; above it")
    ALERT_POOL_USE_WARNING: Threshold = _setting(80.0, "percent of the connections; above it")
    ALERT_POOL_USE_CRITICAL: Threshold = _setting(95.0, "percent of the connections; above it")
    ALERT_REDIS_MEMORY_WARNING: Threshold = _setting(80.0, "percent of maxmemory; above it")
    ALERT_REDIS_MEMORY_CRITICAL: Threshold = _setting(95.0, "percent of maxmemory; above it")
    ALERT_OLDEST_WAITING_WARNING: Threshold = _setting(900.0, "seconds a task has waited; above it")
    ALERT_OLDEST_WAITING_CRITICAL: Threshold = _setting(3600.0, "seconds a task has waited; above it")
    ALERT_SILENT_CONSUMPTION_WARNING: Threshold = _setting(120.0, "seconds nothing is taken; above it")
    ALERT_SILENT_CONSUMPTION_CRITICAL: Threshold = _setting(600.0, "seconds nothing is taken; above it")

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _variables: dict[str, tuple[str, str]] = PrivateAttr(default_factory=dict)

    # Untyped keywords, so that a dict of overrides of any type can be passed on.
    def __init__(self, **overrides: Any) -> None:
        environment = overrides.pop("_environment", os.environ)
        env_file = overrides.pop("_env_file", ENV_FILE)
        variables = _merge({".env": _read_env_file(env_file), "environment": environment})
        names = _names_used(variables)
        values = {field: variables[name][0] for field, name in names.items()} | overrides
        values = {field: value for field, value in values.items() if value is not None}
        problems = typing_errors(variables, _known_names())
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems += [
                sentence(detail, names, values, unshown=SECRETS | URLS)
                for detail in error.errors()
                if detail["type"] != "default_factory_not_called"
            ]
        # Outside the except block: a traceback must not carry pydantic's error with the values in it.
        if problems:
            raise ConfigError(problems)
        self._variables = variables
        self._origins = {field: variables[name][1] for field, name in names.items()}
        self._origins |= dict.fromkeys(overrides, "argument")

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Config:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def for_tests(cls, variables: Mapping[str, str] | None = None, /, **overrides: Any) -> Config:
        """Settings that ignore the real environment and `.env`; `variables` takes their place."""
        return cls(_env_file=None, _environment=variables or {}, **overrides)

    @property
    def production(self) -> bool:
        """True in the production tier."""
        return self.APP_ENV == "production"

    @property
    def mode(self) -> Literal["database", "hybrid", "redis"]:
        """Which tracks the settings ask for; the routing in the database says which are in use."""
        if not self.RQ_ENABLED:
            return "database"
        return "hybrid" if self.RQ_HYBRID_MODE else "redis"

    @property
    def redis_percent(self) -> int:
        """Share of tasks that take the Redis track, 0 to 100."""
        return {"database": 0, "hybrid": self.RQ_ROLLOUT_PERCENT, "redis": 100}[self.mode]

    @property
    def pollers_enabled(self) -> bool:
        """True when database pollers run: as set, else by the mode."""
        chosen = self.DATABASE_POLLING_ENABLED
        return self.mode != "redis" if chosen is None else chosen

    @property
    def embedded_redis_socket(self) -> Path:
        """The embedded server's unix socket; its folder is in VAR_DIR unless that path is too long."""
        return _embedded_socket(self.VAR_DIR)

    @property
    def embedded_redis(self) -> bool:
        """True when RQ_REDIS_URL is the embedded server's socket."""
        url = urlsplit(self.RQ_REDIS_URL)
        return url.scheme == "unix" and unquote(url.path) == str(self.embedded_redis_socket)

    def timeout_seconds(self, priority: str) -> int:
        """Seconds a task of this priority may run unless its handler says otherwise."""
        return getattr(self, f"RQ_TIMEOUT_{priority.upper()}", None) or self.RQ_DEFAULT_TIMEOUT

    def variable(self, name: str) -> str | None:
        """Value of a variable that is no setting (a flow's key, a named database), or None."""
        return self._variables.get(name, (None, ""))[0]

    def with_default_variables(self, defaults: Mapping[str, str]) -> Config:
        """The same settings, where these variables have these values unless they are set."""
        copy = self.model_copy()
        copy._variables = {name: (value, "default") for name, value in defaults.items()} | self._variables
        return copy

    def variables(self) -> list[str]:
        """The names of all variables that are set, settings or not."""
        return list(self._variables)

    def origin(self, name: str) -> str:
        """Where a setting or variable came from: argument, environment, .env or default."""
        return self._origins.get(name) or self._variables.get(name, ("", "default"))[1]

    def shown(self, name: str) -> str:
        """The setting as text for people: secrets and the passwords in URLs are masked."""
        value = getattr(self, name)
        if value is not None and name in SECRETS:
            return "(hidden)"
        return masked(as_text(value)) if name in URLS else as_text(value)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, self.shown(name)) for name in type(self).model_fields]


def _read_env_file(path: Path | str | None) -> dict[str, str]:
    """Variables of an env file, taken literally; empty when there is no such file."""
    if path is None or not Path(path).exists():
        return {}
    try:
        with Path(path).open(encoding="utf-8") as stream:
            lines = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error.__class__.__name__}."]) from None
    bad = [f"Line {line.original.line} of {path} is not NAME=value." for line in lines if line.error]
    if bad:
        raise ConfigError(bad)
    return {line.key: line.value for line in lines if line.key and line.value is not None}


def _merge(layers: Mapping[str, Mapping[str, str]]) -> dict[str, tuple[str, str]]:
    """Value and origin of each variable that is not empty; later layers win."""
    return {
        name: (value.strip(), origin)
        for origin, layer in layers.items()
        for name, value in layer.items()
        if value.strip()
    }


def _names_used(variables: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """For each setting that is set, the name of the variable that sets it."""
    used: dict[str, str] = {}
    for field in Config.model_fields:
        found = [name for name in (field, *ALIASES.get(field, ())) if name in variables]
        if found:
            # Any spelling in the environment wins over any spelling in the file.
            used[field] = min(found, key=lambda name: variables[name][1] != "environment")
    return used


def _known_names() -> set[str]:
    return {*Config.model_fields, *(alias for group in ALIASES.values() for alias in group)}


def _contradictions(config: Config) -> Iterable[str]:
    missing = [name for name in REQUIRED_IN_PRODUCTION if not getattr(config, name)]
    if config.production and missing:
        yield f"Production needs {', '.join(missing)}: set them, or let `make setup-prod` write them to .env."
    if config.mode == "database" and not config.pollers_enabled:
        yield "DATABASE_POLLING_ENABLED=false with RQ_ENABLED=false leaves nobody to run tasks."
    for critical in (name for name in Config.model_fields if name.endswith("_CRITICAL")):
        warning = critical.replace("_CRITICAL", "_WARNING")
        # Of the rates the low values are the bad ones.
        milder = getattr(config, critical) - getattr(config, warning)
        if milder and (milder > 0) == ("_RATE_" in critical):
            yield f"{critical} must not be milder than {warning}."


def example() -> str:
    """Text of `.env.example`: every setting with its meaning and default."""
    fields = Config.model_fields.items()
    # A default that depends on this machine's folders is described, not written down.
    written = {
        name: "" if f.default_factory or name == "VAR_DIR" else as_text(f.default) for name, f in fields
    }
    return "".join(f"# {field.description}\n{name}={written[name]}\n" for name, field in fields)


def main() -> int:
    """List every setting, its value and its origin; exit 2 and say why when they cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m config", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--example", action="store_true", help="print the text of .env.example")
    arguments = parser.parse_args()
    if arguments.example:
        print(example(), end="")
        return 0
    try:
        config = Config()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    rows = [(name, config.shown(name), config.origin(name)) for name in Config.model_fields]
    if arguments.json:
        print(
            json.dumps({name: {"value": value, "origin": origin} for name, value, origin in rows}, indent=2)
        )
    else:
        print("\n".join(f"{name:<34} {value:<48} {origin}" for name, value, origin in rows))
    return 0


if __name__ == "__main__":
    # `… | head` closes the pipe early, which is no error.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
