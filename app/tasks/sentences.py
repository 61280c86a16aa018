"""What people are told of an error: short, and such that every database can hold it."""

from __future__ import annotations

from contextlib import suppress

ERROR_CHARACTERS = 500


def sentence(error: BaseException) -> str:
    """The first line of what an exception says: enough for a person, no dump."""
    text = ""
    with suppress(Exception):  # a handler's own exception may break even here
        text = str(error)
    lines = storable(text).strip().splitlines()
    return lines[0][:ERROR_CHARACTERS] if lines else type(error).__name__


def storable(text: str) -> str:
    """Text without what some database cannot hold: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
