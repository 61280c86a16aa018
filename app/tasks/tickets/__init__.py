"""Tickets: everything that Redis knows of our tasks. A ticket may be lost, doubled or stale without harm.

`RQQueueManager` is the only code of the core that speaks to Redis; `rq_format` is what a stock RQ worker
needs to read a ticket safely.
"""

from __future__ import annotations

from app.tasks.tickets.health import RedisHealth
from app.tasks.tickets.manager import Look, Overflow, RQQueueManager, connect

__all__ = ["Look", "Overflow", "RQQueueManager", "RedisHealth", "connect"]
