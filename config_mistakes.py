"""What is wrong with settings, in sentences for the person who wrote them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

OUR_PREFIXES = (
    *("RQ_", "DB_", "ALERT_", "DATABASE_", "DESCRIBE_", "HTTP_ALLOW_", "MAX_", "MIGRATION_"),
    *("OLLAMA_", "PRIORITY_", "QUEUE_", "TASK_", "UPLOAD_"),
)
# Read by RQ, rq-dashboard and Ollama themselves.
FOREIGN_VARIABLES = re.compile(
    r"RQ_(KEY_PREFIX|CONFIG|\w+_CLASS|SERIALIZER|(WORKER|JOB|EXECUTION)_ID|DASHBOARD_\w+)|OLLAMA_MODELS"
)
# High enough that MAX_JOBS or DATABASE_URL_TEST of another program passes.
TYPO_SIMILARITY = 0.84


class ConfigError(Exception):
    """The settings cannot be used; `problems` has one sentence per problem and no secret value."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def typing_errors(variables: Iterable[str], known: Collection[str]) -> list[str]:
    """One sentence for each variable that is none of ours, and looks like one with a slip in it."""
    candidates = sorted(name for name in variables if name not in known and name.startswith(OUR_PREFIXES))
    problems = []
    for name in candidates:
        close = difflib.get_close_matches(name, known, n=1, cutoff=TYPO_SIMILARITY)
        if close and not FOREIGN_VARIABLES.fullmatch(name):
            problems.append(f"Unknown setting {name}. Did you mean {close[0]}?")
    return problems


def sentence(
    detail: ErrorDetails, names: Mapping[str, str], values: Mapping[str, Any], *, unshown: Collection[str]
) -> str:
    """One validation error as one sentence that names the variable, with its value unless it is `unshown`."""
    field = str(detail["loc"][0]) if detail["loc"] else ""
    context = detail.get("ctx", {})
    if not field:
        return str(context["error"])
    wording = {
        "value_error": "{error}",
        "literal_error": "must be {expected}",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "finite_number": "must be a finite number",
        "greater_than_equal": "must be at least {ge}",
        "less_than_equal": "must be at most {le}",
        "extra_forbidden": "is not a setting",
        "string_pattern_mismatch": "must match {pattern}",
    }.get(detail["type"], "is not valid")
    shown = "" if field in unshown or field not in values else f", not {values[field]!r}"
    return f"{names.get(field, field)} {wording.format(**context)}{shown}."
