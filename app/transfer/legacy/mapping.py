"""The mapping file: TOML that says what a legacy table calls things. Read strictly: what is wrong is named by
file and field, and a key that is none of ours is an error, not a comment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from app.tasks.model import Priority
from app.transfer.errors import NotPossible

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]{0,63}$")]
Word = Annotated[str, Field(min_length=1, max_length=64)]
Fact = Literal["now", "result", "error", "attempts", "nothing"]


class MappingRefused(NotPossible):
    """The file cannot be read, or says something that it must not."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Part):
    """Where a value of a row comes from: a column, which the table may lack, or an SQL expression over the
    row, which is called `legacy`. `default` stands for a missing column and for NULL."""

    column: Name | None = None
    expression: str | None = None
    default: str | int | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Value:
        if (self.column is None) == (self.expression is None):
            raise PydanticCustomError("value", "give exactly one of column and expression")
        return self


class PriorityValue(Value):
    """`words` translates; what is still none of ours counts as the default."""

    default: Priority = Priority.NORMAL
    words: dict[str, Priority] = {}


class StatusColumn(_Part):
    """The words of the status column. Without `cancelled` a cancelled task is written back as failed."""

    column: Name
    queued: Word
    running: Word
    moved: Word
    done: Word
    failed: Word
    cancelled: Word | None = None

    @model_validator(mode="after")
    def _moved_is_a_word_of_its_own(self) -> StatusColumn:
        others = {self.queued, self.running, self.done, self.failed, self.cancelled}
        if self.moved in others:
            raise PydanticCustomError("status", "moved must be a word of its own")
        if self.queued in {self.running, self.done, self.failed, self.cancelled}:
            raise PydanticCustomError("status", "queued must be a word of its own")
        return self


class Payload(_Part):
    """The payload's fields: columns as they are, texts that hold JSON, constants. `whole` instead: one column
    that holds the payload's JSON."""

    columns: dict[str, Name] = {}
    json_columns: dict[str, Name] = Field(default={}, alias="json")
    constants: dict[str, Any] = {}
    whole: Name | None = None

    @model_validator(mode="after")
    def _whole_stands_alone(self) -> Payload:
        if self.whole and (self.columns or self.json_columns or self.constants):
            raise PydanticCustomError("payload", "whole leaves no room for other fields")
        return self


class ConstantText(_Part):
    text: str


Written = Fact | ConstantText | int | float | bool


class WriteBack(_Part):
    """What the row is given when its task ends, beside its status."""

    done: dict[Name, Written] = {}
    failed: dict[Name, Written] = {}
    cancelled: dict[Name, Written] = {}


class Fault(_Part):
    """A reason class of the table's own: rows for which `when` is true cannot become tasks. `fenced`: such a
    row is marked moved, so that old workers leave it alone; otherwise it stays theirs."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    when: Annotated[str, Field(min_length=1)]
    fenced: bool
    needs: tuple[Name, ...] = ()


class Mapping(_Part):
    """A whole file. `database` names the database that the table is in, as named databases are; without it
    the table is in ours."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    database: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] | None = None
    table: Name
    key: Name
    task: Annotated[str, Field(min_length=1, max_length=100)]
    status: StatusColumn
    created: Value | None = None
    priority: PriorityValue | None = None
    user: Value | None = None
    attempts: Value | None = None
    retries: Value | None = None
    payload: Payload = Payload()
    write_back: WriteBack = WriteBack()
    fault: tuple[Fault, ...] = ()


def read_mapping(path: Path) -> Mapping:
    """The mapping in this file. Raises `MappingRefused`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingRefused(f"the mapping {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingRefused(f"{path} is not TOML: {error}") from None
    return mapping_of(data, said_in=str(path))


def mapping_of(data: Any, *, said_in: str) -> Mapping:
    """Raises `MappingRefused` with a line for each wrong field."""
    try:
        return Mapping.model_validate(data)
    except ValidationError as error:
        lines = [f"  {_place(one['loc'])}: {one['msg']}" for one in error.errors(include_url=False)]
        raise MappingRefused("\n".join([f"the mapping {said_in} is wrong:", *dict.fromkeys(lines)])) from None


def _place(location: tuple[str | int, ...]) -> str:
    """A dotted path. The kinds of a write-back's value are pydantic's own names, and are left out."""
    if location[:1] == ("write_back",):
        location = location[:3]
    return ".".join(map(str, location)) or "the file"
