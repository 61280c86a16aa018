"""Where an imported task came from: the row of a legacy table, and what that table calls things.

The row is named by the task's idempotency key, which is unique and which every claim carries: nothing has to
be asked to know that a task was not imported. The words of its table are stored in the database by the
import, so that every process knows them and none needs a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

SOURCE_KEYS = "legacy:"


class SourceKey(NamedTuple):
    """A row of a legacy table: the source's name and the row's key as text."""

    source: str
    key: str

    def __str__(self) -> str:
        return f"{SOURCE_KEYS}{self.source}:{self.key}"

    @classmethod
    def of_key(cls, key: str | None) -> SourceKey | None:
        """The legacy row that an idempotency key names; None for every other key."""
        if key is None or not key.startswith(SOURCE_KEYS):
            return None
        source, _, rest = key.removeprefix(SOURCE_KEYS).partition(":")
        return cls(source, rest)


def is_imported(key: str | None) -> bool:
    """True if the task with this idempotency key came from a legacy table."""
    return key is not None and key.startswith(SOURCE_KEYS)


@dataclass(frozen=True, slots=True)
class Words:
    """What a legacy table calls the states of its rows."""

    queued: str
    running: str
    moved: str
    done: str
    failed: str
    cancelled: str

    @property
    def ended(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.done, self.failed, self.cancelled)))


@dataclass(frozen=True, slots=True)
class Source:
    """A legacy table as its tasks' transitions need to know it.

    `write_back` says for each ended status which column gets what: a dict {"is": "now" | "result" | "error" |
    "attempts"} or {"value": a constant}. `mapping` is the whole mapping, for whoever imports. `database`: the
    name of the database that the table is in; None: ours.
    """

    name: str
    table: str
    key: str
    status: str
    words: Words
    write_back: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    mapping: Mapping[str, Any] = field(default_factory=dict)
    database: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def of_json(cls, text: str) -> Source:
        data = json.loads(text)
        return cls(**(data | {"words": Words(**data["words"])}))
