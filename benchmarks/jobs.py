"""What the peers run: nothing."""

from __future__ import annotations


def noop(payload: dict[str, str]) -> None:
    """The peers' counterpart of the task `test.noop`."""
