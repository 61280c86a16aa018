"""The classes of faults, and what was found of one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What can be wrong. The value is the word in every report."""

    MISSING_TICKET = "missing ticket"
    DOUBLED_TICKET = "doubled ticket"
    WRONG_QUEUE = "wrong queue"
    WRONG_EPOCH = "wrong epoch"
    WRONG_FUNCTION = "wrong function"
    WRONG_ARGUMENTS = "wrong arguments"
    WRONG_TIMEOUT = "wrong time-out"
    WRONG_SERIALIZER = "wrong serializer"
    HOLLOW_TICKET = "ticket without envelope"
    TICKET_OF_ENDED_ROW = "ticket for an ended row"
    TICKET_OF_QUEUED_ROW = "ticket for a queued row"
    STALE_TICKET = "stale ticket"
    ORPHAN_TICKET = "orphan ticket"
    FOREIGN_TICKET = "foreign key"
    ORDER_INVERSION = "order inversion"
    LEFT_BEHIND = "row left behind"
    CHANGED_ROW = "changed row"
    VANISHED_ROW = "vanished row"
    UNDONE_END = "end undone"


MEANINGS = {
    Fault.MISSING_TICKET: "a row waits in Redis and its ticket is in no queue",
    Fault.DOUBLED_TICKET: "the ticket of a row stands in the queues more than once",
    Fault.WRONG_QUEUE: "the ticket stands in, or names, another queue than its row's priority",
    Fault.WRONG_EPOCH: "the only ticket of a row is of another epoch: a worker would drop it",
    Fault.WRONG_FUNCTION: "the ticket calls something else than our function",
    Fault.WRONG_ARGUMENTS: "the ticket's call names another task or another epoch",
    Fault.WRONG_TIMEOUT: "the ticket's time limit is not the one of its row",
    Fault.WRONG_SERIALIZER: "the ticket's call was not written by our serializer",
    Fault.HOLLOW_TICKET: "a queue names a ticket whose hash is not there",
    Fault.TICKET_OF_ENDED_ROW: "a queue holds a ticket of a task that has ended",
    Fault.TICKET_OF_QUEUED_ROW: "a queue holds a ticket of a row that waits in the database",
    Fault.STALE_TICKET: "a queue holds a ticket of an earlier wait of its row, or of one that runs",
    Fault.ORPHAN_TICKET: "a queue holds a ticket whose row does not exist",
    Fault.FOREIGN_TICKET: "a queue holds an entry that is no ticket of ours",
    Fault.ORDER_INVERSION: "a ticket stands behind a younger one, and nothing that happened explains it",
    Fault.LEFT_BEHIND: "a row still waits on the track that was to be left",
    Fault.CHANGED_ROW: "what must not change of a row is not as the baseline recorded it",
    Fault.VANISHED_ROW: "a row of the baseline does not exist any more",
    Fault.UNDONE_END: "a task that was COMPLETED in the baseline is not any more",
}


class ImportFault(StrEnum):
    """What can be wrong between a legacy row and its task."""

    LEFT_BEHIND = "queued row left behind"
    NO_TASK = "moved row without a task"
    NOT_FENCED = "queued row with a living task"
    TAKEN = "row taken from a living task"
    NOT_TOLD = "end not told"
    ROW_GONE = "task without its row"
    CHANGED = "payload differs from its row"


IMPORT_MEANINGS = {
    ImportFault.LEFT_BEHIND: "the row still waits for an old worker, and nobody has named it",
    ImportFault.NO_TASK: "the row is marked moved, and no task names it: nobody will run it",
    ImportFault.NOT_FENCED: "the row waits for an old worker while its task waits or runs: both could run it",
    ImportFault.TAKEN: "somebody has changed the row; the task is closed when a worker comes to it",
    ImportFault.NOT_TOLD: "the task has ended, and the row still says moved",
    ImportFault.ROW_GONE: "the task names a row that does not exist; it is closed when a worker comes to it",
    ImportFault.CHANGED: "the task's payload does not say what the row says",
}


# What workers and the sweeper put right by themselves, in time: a worker drops a ticket that is worth nothing
# when its turn comes, and the sweeper pushes what is missing.
HEALING = frozenset(
    {
        *(Fault.MISSING_TICKET, Fault.DOUBLED_TICKET, Fault.WRONG_EPOCH, Fault.STALE_TICKET),
        *(Fault.TICKET_OF_ENDED_ROW, Fault.TICKET_OF_QUEUED_ROW, Fault.ORPHAN_TICKET),
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault. `key` names a row by its id or its legacy key, or an entry of Redis as it stands there."""

    fault: Fault | ImportFault
    key: str
    detail: str = ""


def meaning_of(fault: Fault | ImportFault) -> str:
    """What the class means, for people."""
    return IMPORT_MEANINGS[fault] if isinstance(fault, ImportFault) else MEANINGS[fault]
