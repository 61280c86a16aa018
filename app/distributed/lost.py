"""Records whose processor is gone: found by their leases, and brought back to their lane.

Every pool's sweeper does the same for all tasks. Processors do it for their own lanes, so that containers
that process records need no pool beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from app.tasks.reclaims import Reclaims
from app.tasks.runner import boot_clock
from app.tasks.store import Store

BATCH = 500

_Lease = tuple[int, int, datetime]


class LostRecords:
    """Not safe for threads."""

    def __init__(
        self,
        store: Store,
        reclaims: Reclaims,
        *,
        lease_seconds: float,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._store = store
        self._reclaims = reclaims
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[_Lease, float] = {}

    def reclaim(self, lane: int) -> int:
        """Bring records of this lane back whose lease is over and was not renewed for a renewal interval in
        which the database answered: after an outage a holder that lives has its chance to renew. Returns how
        many. Raises `DatabaseUnavailable`, and what was seen before does not count then."""
        try:
            rows = self._store.records.unrenewed(lane, within_seconds=self._lease_seconds / 2, limit=BATCH)
        except Exception:
            self._seen.clear()
            raise
        now = self._clock()
        self._seen = {key: self._seen.get(key, now) for key in ((r.id, r.token, r.lease_until) for r in rows)}
        silent = [
            r for r in rows if now - self._seen[r.id, r.token, r.lease_until] >= self._lease_seconds / 3
        ]
        reason = "its lease expired"
        return sum(self._reclaims.reclaim(row, reason, only_expired=True) for row in silent)


def is_delicate(failures: int, max_retries: int | None) -> bool:
    """True of a record that is run in a batch of its own: it may be what killed an earlier processor, and a
    killed batch costs each of its records one failure."""
    return failures > 0 or max_retries == 0
