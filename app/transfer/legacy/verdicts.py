"""Why a legacy row cannot become a task, and whose it is then. docs/legacy.md has the table for people."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Flaw(StrEnum):
    """The reason classes of every table; a mapping adds its own."""

    NOT_JSON = "a column of the payload is not JSON"
    TOO_LARGE = "the payload is larger than the limit"
    REFUSED = "the handler refuses the payload"
    BAD_USER = "the user cannot be a user's name"
    BAD_KEY = "the row's key cannot be part of a task's key"
    STATUS_NULL = "the status is NULL"
    STATUS_FIXED = "the table refuses any change of the row's status"


class Verdict(NamedTuple):
    """What becomes of a flawed row. Fenced: it is marked moved, and old workers leave it alone. Not fenced:
    it stays as it was, and so with whoever reads it."""

    reason: str
    fenced: bool
    detail: str = ""

    @property
    def said(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


# Left alone: what no old worker picks either, and what cannot be marked by anybody.
LEFT = frozenset({Flaw.STATUS_NULL, Flaw.STATUS_FIXED})


def verdict(flaw: Flaw, detail: str = "") -> Verdict:
    return Verdict(flaw.value, flaw not in LEFT, detail)
