"""What a flow is set to: one lookup over environment and stored variables, each answer with its origin.

The first place that has a value gives it, in this order (the flow `survey`, the tier `staging`):

    SURVEY_<KEY>                         the flow, by the environment or .env
    STAGING_SURVEY_<KEY>                 the flow in this tier
    STAGING_GLOBAL_<KEY>                 all flows in this tier
    GLOBAL_<KEY>                         all flows
    staging.survey.<key>                 the same by stored variables
    staging.global.<key>
    global.<key>
    DISTRIBUTED_PROCESSOR_<KEY> …        a flow of that name holds what others default to, in the first two
    staging.distributed_processor.<key>  spellings and as a stored variable
    the key's own default
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from app.database_names import spelled
from app.distributed.variables import StoredVariables
from app.tasks.database import Database
from config import Config, ConfigError
from config_values import Flag

DEFAULTS_FLOW = "distributed_processor"
FLOW_CHARACTERS = 60


FLAG_WORDS = "true, false, 1, 0, yes, no, on or off"


@dataclass(frozen=True, slots=True)
class Key:
    """A setting that every flow has: how its text is read, what it is by default, what it may be, what it
    is for."""

    reads: TypeAdapter[Any]
    default: Any
    may_be: str
    meaning: str


def _whole(low: int, high: int) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[int, Field(ge=low, le=high)])


KEYS: Mapping[str, Key] = {
    "use_distributed_processing": Key(TypeAdapter(Flag), False, FLAG_WORDS, "records go through the queue"),
    "distributed_batch_size": Key(
        _whole(1, 10_000), 100, "a whole number from 1 to 10000", "most records that are claimed at once"
    ),
    "distributed_rollout_percent": Key(
        _whole(0, 100), 100, "a whole number from 0 to 100", "share of the records that go through the queue"
    ),
    "accept_records": Key(
        TypeAdapter(Flag), True, FLAG_WORDS, "records may be added; false stops intake at once"
    ),
    "process_records": Key(
        TypeAdapter(Flag), True, FLAG_WORDS, "records may be claimed; false lets what runs end, and no more"
    ),
    "cleanup_timeout_hours": Key(
        TypeAdapter(Annotated[float, Field(ge=0, le=8760, allow_inf_nan=False)]),
        *(1.0, "a number of hours from 0 to 8760", "age of a claim whose record may be cleaned up"),
    ),
    "max_retries": Key(
        _whole(0, 1000), 3, "a whole number from 0 to 1000", "failures after which a record stays failed"
    ),
}
# What a value of an unknown key is read as, by the type of the caller's default.
_BY_DEFAULT: Mapping[type, tuple[TypeAdapter[Any], str]] = {
    bool: (TypeAdapter(Flag), "true or false"),
    int: (TypeAdapter(int), "a whole number"),
    float: (TypeAdapter(float), "a number"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """One place of the lookup: what it is called, where that is kept, and its text if it has one."""

    name: str
    origin: str
    text: str | None


class ConfigManager:
    """The settings of one flow, read anew with each call: a flag that is changed holds for the next run."""

    def __init__(self, flow: str, *, config: Config | None = None, database: Database | None = None) -> None:
        """`config` is what the environment says by default; without `database`, the one of DATABASE_URL is
        asked, over a connection for each question. Raises `ConfigError` for a flow's name that no variable
        can spell."""
        if not 0 < len(flow) <= FLOW_CHARACTERS or not re.search(r"[A-Za-z0-9]", flow):
            raise ConfigError([f"A flow's name must be 1 to {FLOW_CHARACTERS} characters, with a letter."])
        self.flow = flow
        self._config = Config() if config is None else config
        self._given = database
        self.tier: str = self._config.APP_ENV

    def get_variable(self, key: str, default: Any = None) -> Any:
        """The value of a key, typed: as its kind says, or else as the type of `default`.

        Raises `ConfigError` naming the variable whose text cannot be read so, and `DatabaseUnavailable`.
        """
        found = next((place for place in self._places(key) if place.text is not None), None)
        if found is None or found.text is None:
            known = KEYS.get(small(key))
            return known.default if known is not None and default is None else default
        return read_value(key, found.text, name=found.name, default=default)

    def trace(self, key: str) -> list[Place]:
        """Every place that was looked at, in order: the first with a text gave the value."""
        known = KEYS.get(small(key))
        default = Place("default", "default", None if known is None else str(known.default))
        return [*self._places(key), default]

    def _places(self, key: str) -> list[Place]:
        tier, flow, word = self.tier, small(self.flow), small(key)
        first = [
            *(f"{flow}_{word}", f"{tier}_{flow}_{word}"),
            *(f"{tier}_global_{word}", f"global_{word}"),
        ]
        then = [f"{tier}.{flow}.{word}", f"{tier}.global.{word}", f"global.{word}"]
        last = [f"{DEFAULTS_FLOW}_{word}", f"{tier}_{DEFAULTS_FLOW}_{word}"]
        stored_last = f"{tier}.{DEFAULTS_FLOW}.{word}"
        by_environment = [self._by_environment(name.upper()) for name in first]
        stored = self._stored([*then, stored_last])
        return [
            *by_environment,
            *(Place(name, "stored", stored.get(name)) for name in then),
            *(self._by_environment(name.upper()) for name in last),
            Place(stored_last, "stored", stored.get(stored_last)),
        ]

    def _stored(self, names: list[str]) -> dict[str, str]:
        if self._given is not None:
            return StoredVariables(self._given).get(names)
        own = Database(self._config.DATABASE_URL, pool_size=1)
        try:
            return StoredVariables(own).get(names)
        finally:
            own.dispose()

    def _by_environment(self, name: str) -> Place:
        text = self._config.variable(name)
        return Place(name, "environment" if text is None else self._config.origin(name), text)


def read_value(key: str, text: str, *, name: str, default: Any = None) -> Any:
    """A key's value from its text. Raises `ConfigError` naming `name`."""
    known = KEYS.get(small(key))
    if known is not None:
        adapter, may_be = known.reads, known.may_be
    elif type(default) in _BY_DEFAULT:
        adapter, may_be = _BY_DEFAULT[type(default)]
    else:
        return text
    try:
        return adapter.validate_python(text)
    except ValidationError:
        raise ConfigError([f"{name} must be {may_be}, not {text[:60]!r}."]) from None


def small(name: str) -> str:
    """A name as a stored variable spells it."""
    return spelled(name).lower()
