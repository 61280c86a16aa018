"""Stored variables: settings of flows that are kept in the database, so that one write reaches every host."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.tasks.database import Database
from app.tasks.errors import DatabaseUnavailable, SchemaMissing
from app.tasks.schema import database_now, variables

NAME = re.compile(r"(?:(?:development|staging|production)\.[a-z0-9_]+|global)\.[a-z0-9_]+")
NAME_CHARACTERS = 190
VALUE_CHARACTERS = 2000
TRIES = 5


class WrongVariable(ValueError):
    """A name or value that no variable can have; the sentence says what it may be."""


class StoredVariables:
    """Names are `<tier>.<flow>.<key>`, `<tier>.global.<key>` or `global.<key>`, in lower case; values are
    text. Every method raises `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, names: Iterable[str]) -> dict[str, str]:
        """The values of those of the names that are stored, by one statement. Nothing is stored in a database
        that has no tables yet."""
        query = select(variables.c.name, variables.c.value).where(variables.c.name.in_(list(names)))
        try:
            return self._database.read(lambda on: {row.name: row.value for row in on.execute(query)})
        except SchemaMissing:
            return {}

    def all(self) -> dict[str, str]:
        """Every variable, by name."""
        query = select(variables.c.name, variables.c.value).order_by(variables.c.name)
        return self._database.read(lambda on: {row.name: row.value for row in on.execute(query)})

    def set(self, name: str, value: str) -> None:
        """Store a value, in place of an earlier one. Raises `WrongVariable`."""
        if not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS:
            raise WrongVariable(
                f"{name[:60]!r} is no name of a variable: development.survey.max_retries,"
                " development.global.max_retries and global.max_retries are"
            )
        if not value.strip() or len(value) > VALUE_CHARACTERS:
            raise WrongVariable(f"the value of {name} must be 1 to {VALUE_CHARACTERS} characters of text")

        for _ in range(TRIES):
            try:
                return self._database.run(lambda on: _put(on, name, value.strip()))
            except IntegrityError:
                continue  # somebody else stored it first: there is a row to change now
        raise DatabaseUnavailable(f"{name} was stored and removed by others again and again; try again")

    def remove(self, name: str) -> bool:
        """Forget a variable; false if there was none."""
        query = delete(variables).where(variables.c.name == name)
        return self._database.run(lambda on: on.execute(query).rowcount) == 1


def _put(on: Connection, name: str, value: str) -> None:
    new = {"value": value, "updated_at": database_now()}
    if not on.execute(update(variables).where(variables.c.name == name).values(**new)).rowcount:
        on.execute(insert(variables).values(name=name, **new))
