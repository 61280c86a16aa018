"""Prometheus metrics (in progress: the counters of this process)."""

from __future__ import annotations


def count_submission(outcome: str) -> None:
    """Count one submission by its outcome."""
