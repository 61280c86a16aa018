"""From a system to what a transfer needs of it: the parts that verify it, its settings, its mapping file."""

from __future__ import annotations

from pathlib import Path

from app.system import System
from app.tasks.model import PRIORITIES
from app.tasks.tickets import connect
from app.transfer.digests import TimeLimits
from app.transfer.verification.tickets import TicketReader

ANSWER_SECONDS = 60.0  # a long queue is one long answer


def reader_of(system: System) -> TicketReader | None:
    """A reader with a connection of its own; None in database mode."""
    if system.tickets is None:
        return None
    client = connect(system.config.RQ_REDIS_URL, answer_seconds=ANSWER_SECONDS)
    return TicketReader(client, prefix=system.config.RQ_QUEUE_PREFIX)


def mapping_file_of(system: System, given: Path | None) -> Path | None:
    """The mapping file that is meant: the given one, or else the setting's; None: our own table."""
    default = system.config.MIGRATION_SOURCE
    return given or (Path(default) if default else None)


def settings_of(system: System) -> dict[str, str]:
    """What is in force; secrets are not in it."""
    return {name: system.config.shown(name) for name in type(system.config).model_fields}


def time_limits_of(system: System) -> TimeLimits:
    """The rules by which a ticket's time limit follows from its row."""
    of_name = {name: handler.timeout_seconds for name, handler in system.handlers.items()}
    of_priority = system.settings.priority_timeout_seconds
    return TimeLimits(
        default=system.settings.default_timeout_seconds,
        of_name={name: seconds for name, seconds in of_name.items() if seconds},
        of_rank={PRIORITIES.index(priority): seconds for priority, seconds in of_priority.items()},
    )
