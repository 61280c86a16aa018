"""What a request brings: its JSON body and its query parameters, checked before anything looks at them.

Every check names the field, and an unknown field is refused: a misspelt one must not pass in silence.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from app.tasks.errors import FieldProblem
from app.tasks.ids import MAX_ID
from app.web.problems import invalid, invalid_fields, refused

DEPTH_LIMIT = 100

Body = TypeVar("Body", bound=BaseModel)

_MESSAGES = {"extra_forbidden": "is not a field of this request", "missing": "is required"}


def body_as(shape: type[Body], *, optional: bool = False) -> Body:
    """The request's JSON object as `shape`. With `optional`, no body counts as an empty object.

    Raises 400 naming each wrong field, 413, 415 for another content type.
    """
    return parsed(shape, json_body(optional=optional))


def parsed(shape: type[Body], value: Any) -> Body:
    """A decoded JSON value as `shape`. Raises 400 naming each wrong field."""
    if not isinstance(value, dict):
        raise invalid("", "must be a JSON object")
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise invalid_fields(field_problems(error)) from None


def field_problems(error: ValidationError) -> list[FieldProblem]:
    return [
        FieldProblem(".".join(map(str, item["loc"])), _MESSAGES.get(item["type"], _sentence(item["msg"])))
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def _sentence(message: str) -> str:
    """Pydantic's words without its prefix for our own."""
    return message.removeprefix("Value error, ")


def json_body(*, optional: bool = False) -> Any:
    """The decoded body. Raises 400, 413, 415."""
    raw = _raw_body()
    if not raw:
        if optional:
            return {}
        raise refused(400, "This address needs a JSON body.")
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise refused(415, "The body must be JSON: send Content-Type: application/json.")
    try:
        value = json.loads(raw, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise refused(400, "The body is not valid JSON.") from None
    if raw.count(b"[") + raw.count(b"{") > DEPTH_LIMIT and _is_deeper_than(value, DEPTH_LIMIT):
        raise refused(400, f"The body is nested more than {DEPTH_LIMIT} levels deep.")
    return value


def _raw_body() -> bytes:
    raw = request.get_data(cache=False)
    limit = request.max_content_length
    # A body that came without its length is cut off at the limit, without a word.
    if request.content_length is None and limit is not None and len(raw) >= limit:
        raise refused(413, f"The body is larger than {limit} bytes.")
    return raw


def _is_deeper_than(value: Any, limit: int) -> bool:
    """True for a value that nobody could write as JSON again without running out of stack."""
    level = [value]
    for _ in range(limit):
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner.extend(one.values())
            elif isinstance(one, list):
                inner.extend(one)
        level = inner
        if not level:
            return False
    return True


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def query(*known: str) -> dict[str, str]:
    """The query parameters. Raises 400 for one that is unknown, repeated or not printable."""
    problems = []
    for name, values in request.args.lists():
        if name not in known:
            problems.append(FieldProblem(name[:100], f"is no parameter here; known: {', '.join(known)}"))
        elif len(values) > 1:
            problems.append(FieldProblem(name, "is given more than once"))
        elif not values[0].isprintable():
            problems.append(FieldProblem(name, "must be printable characters"))
    if problems:
        raise invalid_fields(problems)
    return {name: value for name, value in request.args.items() if value}


def whole_number(name: str, text: str | None, *, default: int, low: int, high: int) -> int:
    """A number from the query. Raises 400."""
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and low <= int(text) <= high):
        raise invalid(name, f"must be a whole number from {low} to {high}")
    return int(text)


def task_id_of(text: str) -> int | None:
    """A task id as it travels: decimal digits; None for anything that cannot be one."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        return None
    number = int(text)
    return number if number <= MAX_ID else None


def one_of(name: str, text: str | None, words: Collection[str]) -> str | None:
    """The word as given if it is among `words`. Raises 400."""
    if text is None or text in words:
        return text
    raise invalid(name, f"{text[:40]!r} is not one of {', '.join(words)}")
