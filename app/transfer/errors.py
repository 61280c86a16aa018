"""The errors of transfers.

TransferError
├── NotPossible         this cannot be started as asked; the sentence says why
│   ├── PriorityTaken   another transfer has a priority for itself
│   └── HolderLives     the process that runs it is alive, or nobody can say that it is dead
├── Superseded          the transfer is no longer this process's: aborted, or taken over
└── Incomplete          it ended without the proof that nothing is left
"""

from __future__ import annotations


class TransferError(Exception):
    """Root of every error that a transfer raises on purpose."""


class NotPossible(TransferError):
    """Wrong use, or not possible as things are; nothing was changed."""


class PriorityTaken(NotPossible):
    def __init__(self, *, transfer_id: int, state: str, holder: str | None) -> None:
        self.transfer_id = transfer_id
        self.state = state
        self.holder = holder
        super().__init__(
            f"transfer {transfer_id} has these priorities: it is {state},"
            f" run by {holder or 'nobody'}; resume it or abort it"
        )


class HolderLives(NotPossible):
    def __init__(self, *, transfer_id: int, holder: str | None) -> None:
        super().__init__(f"transfer {transfer_id} is run by {holder}, which is alive or not proven dead")


class Superseded(TransferError):
    """Somebody aborted the transfer or took it over; what it had moved stays where it is."""


class Incomplete(TransferError):
    """Rows are left that could not be moved; the transfer can be resumed."""
