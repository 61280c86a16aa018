"""What an operator does: begins transfers, looks what became of them, resumes them or begins anew."""

from __future__ import annotations

from typing import Any

from app.tasks.errors import TaskError
from app.tasks.model import PRIORITIES
from tests.soak.installation import Installation, gone
from tests.waiting import happens, wait_until

DEADLINE_SECONDS = 120.0
STARTS = 20
BATCH_ROWS = 12
ROWS_PER_SECOND = 200.0  # so that a move lasts while all the others work
DIRECTIONS = ("dispatch", "recall")
SETTINGS: dict[str, Any] = {
    "RQ_HYBRID_MODE": "true",
    "RQ_ROLLOUT_PERCENT": 0,
    "RQ_TICKET_GRACE": 1,
    "LOG_LEVEL": "warning",
}


class Operator:
    """Of one installation. Its movers are processes that may die."""

    def __init__(self, place: Installation) -> None:
        self._place = place
        self._mover = 0

    @property
    def mover_is_gone(self) -> bool:
        return gone(self._mover)

    def start(self, direction: str, **how: Any) -> None:
        """Have a process move everything."""
        self._mover = self._place.ask(
            "move",
            direction=direction,
            batch_rows=BATCH_ROWS,
            rate=ROWS_PER_SECOND,
            priorities=[priority.value for priority in PRIORITIES],
            **how,
        )

    def until_under_way(self, *, since: int) -> None:
        """Wait for a transfer newer than `since`, or for the end of a mover that began none."""
        happens(lambda: self.newest()[0] > since or self.mover_is_gone, deadline_seconds=DEADLINE_SECONDS)

    def until_closed(self, wanted: str, *, since: int, take_over: bool = False) -> bool:
        """Whether a transfer in this direction, newer than `since`, comes to its end: it is seen to."""
        for _ in range(STARTS):
            wait_until(
                lambda: self.mover_is_gone,
                deadline_seconds=DEADLINE_SECONDS,
                what=lambda: f"the mover to end: {self.newest()}; log:\n{self._place.tail()}",
            )
            newest, direction, state = self.newest()
            fresh = newest > since and direction == wanted
            if fresh and state == "completed":
                return True
            if fresh and state != "aborted":
                self.start(wanted, resume=True)
            else:
                self.start(wanted, take_over=take_over)
        return False

    def newest(self) -> tuple[int, str, str]:
        """Id, direction and state of the newest transfer, by its row."""
        query = "SELECT id, direction, state FROM transfers ORDER BY id DESC LIMIT 1"
        rows = self._place.oracle.select(query)
        return tuple(rows[0]) if rows else (0, "", "")

    def strays(self, direction: str) -> int:
        """Rows on the track that a complete transfer has emptied, where no fallback has been recorded."""
        status = "QUEUED" if direction == "dispatch" else "DISPATCHED"
        query = (
            "SELECT COUNT(*) FROM tasks t JOIN routing r ON r.priority = t.priority"
            f" WHERE t.status = '{status}' AND r.fallback = false"
        )
        return int(self._place.oracle.select(query)[0][0])

    def route_all(self, *, redis_percent: int) -> None:
        """Once the database answers: connections that died with a server are found out, one by one."""
        routing = self._place.stack.system.store.routing

        def routed() -> bool:
            try:
                return bool(routing.change(PRIORITIES, redis_percent=redis_percent, fallback=False))
            except TaskError:
                return False

        wait_until(routed, deadline_seconds=DEADLINE_SECONDS, what="the database to answer")
