"""What the value of a setting may be: how its text is read, and how it is shown to people."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

ROOT = Path(__file__).resolve().parent

DRIVERS = {
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
}
DATABASES = frozenset({"sqlite", "mysql", "mariadb", "postgresql"})

WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def _lower(value: object) -> str:
    return str(value).lower()


def _flag(value: object) -> bool:
    if (word := _lower(value)) in WORDS:
        return WORDS[word]
    raise ValueError(f"must be one of {', '.join(WORDS)}")


def _anchored(value: object) -> Path:
    return ROOT / os.path.expanduser(str(value))


def _list_of(separators: str) -> BeforeValidator:
    return BeforeValidator(lambda v: [n for n in re.split(separators, v) if n] if isinstance(v, str) else v)


def driver_url(text: str) -> URL:
    """A database's URL, with our driver if it names none, and a SQLite file's whole path. Raises
    `ValueError`."""
    scheme, separator, rest = text.partition("://")
    try:
        url = make_url(DRIVERS.get(scheme, scheme) + separator + rest)
    except (ArgumentError, ValueError):
        raise ValueError("must be a database URL such as mysql+pymysql://user:password@host/name") from None
    file = url.database or ""
    if url.get_backend_name() != "sqlite" or file in {"", ":memory:"} or file.startswith("file:"):
        return url
    # A relative file would be a different database in each working folder.
    return url.set(database=str(_anchored(file)))


def _database_url(value: object) -> str:
    url = driver_url(str(value))
    if url.get_backend_name() not in DATABASES:
        raise ValueError("must start with sqlite://, mysql+pymysql:// or postgresql+psycopg://")
    return url.render_as_string(hide_password=False)


Flag = Annotated[bool, BeforeValidator(_flag)]
Folder = Annotated[Path, BeforeValidator(_anchored)]
Folders = Annotated[tuple[Folder, ...], _list_of(os.pathsep)]
Modules = Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")], ...], _list_of(r"[\s,]+")]
Prefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,60}$")]
WebUrl = Annotated[str, Field(pattern=r"^https?://\S+$")]
DatabaseUrl = Annotated[str, BeforeValidator(_database_url)]
RedisUrl = Annotated[str, Field(pattern=r"^(rediss?|unix|(redis[+])?sentinel)://")]
Tier = Annotated[Literal["development", "staging", "production"], BeforeValidator(_lower)]
WorkerMode = Annotated[Literal["integrated", "external", "hybrid"], BeforeValidator(_lower)]
Priority = Annotated[Literal["urgent", "high", "normal", "low"], BeforeValidator(_lower)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_lower)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
WholeSeconds = Annotated[int, Field(ge=1, le=10**8)]
Seconds = Annotated[float, Field(ge=0.05, le=10**8, allow_inf_nan=False)]
Threshold = Annotated[float, Field(ge=0, le=10**12, allow_inf_nan=False)]


def as_text(value: object) -> str:
    """The value as it would be written in `.env`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, tuple):
        return (os.pathsep if isinstance(value[0], Path) else ",").join(map(str, value))
    return "" if value is None else str(value)


def masked(url: str) -> str:
    """The URL without what may be secret in it: user, password and query."""
    return re.sub(r"\?.*", "?***", re.sub(r"(?<=://).*@", "***@", url))
