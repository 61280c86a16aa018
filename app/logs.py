"""How log lines look: readable on a terminal, one JSON object per line where machines read them.

Our own events and those of libraries go the same way, to standard error. Values that look like secrets are
masked here, once for all, so that no line depends on its writer's care.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import Processor

HIDDEN = "(hidden)"

_SECRET_FIELD = re.compile(r"token$|password|secret|authorization|cookie|api_?key|csrf", re.IGNORECASE)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]*@")
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")


# Without local variables: they may hold secrets, and rendering them can take longer than the task.
_TRACEBACKS_AS_DATA = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class _ErrorStream(logging.StreamHandler[Any]):
    """Writes to whatever standard error is now: test runners and daemons replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        """Ignored: the stream is always the present standard error."""


def configure_logging(level: str = "info", json: bool = False) -> None:
    """Send every log line of this process to standard error, from `level` up. May be called again."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_secrets,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _ErrorStream()
    handler.setFormatter(_formatter(shared, json))
    root = logging.getLogger()
    for old in [present for present in root.handlers if isinstance(present, _ErrorStream)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # a line per request is the reverse proxy's business; Alembic tells what it is about to assume
    for chatty in ("werkzeug", "alembic"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _formatter(shared: list[Processor], json: bool) -> logging.Formatter:
    renderer: list[Processor] = (
        [_TRACEBACKS_AS_DATA, structlog.processors.JSONRenderer(default=str)]
        if json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide fields with the name of a secret, passwords in URLs and bearer tokens in texts."""
    for key, value in event.items():
        if _SECRET_FIELD.search(key):
            event[key] = HIDDEN
        elif isinstance(value, str):
            event[key] = _BEARER.sub(f"Bearer {HIDDEN}", _URL_CREDENTIALS.sub("***@", value))
    return event
