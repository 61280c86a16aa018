"""What stands between two batches: the lease, an operator's wish, pressure on the servers, the rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from app.transfer.courtesy import Courtesy
from app.transfer.pacing import ChunkSize, Rate
from app.transfer.records import State, Transfer, TransferRecords
from app.transfer.throttle import Throttle

BEAT_SECONDS = 1.0
STEP_SECONDS = 0.1


@dataclass(slots=True)
class Course:
    """Where the run is: shown to operators, and kept in the transfer's row."""

    phase: str = "beginning"
    cursors: dict[str, int] = field(default_factory=dict)


class Steering:
    """`holder` runs the transfer."""

    def __init__(
        self,
        records: TransferRecords,
        transfer: Transfer,
        *,
        holder: str,
        throttle: Throttle,
        courtesy: Courtesy,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        limits = transfer.limits
        self.chunk = ChunkSize(seconds=limits.chunk_seconds, largest=limits.batch_rows)
        self.course = Course(cursors=dict(transfer.cursors))
        self._pressure: str | None = None
        self._records = records
        self._transfer_id = transfer.transfer_id
        self._holder = holder
        self._throttle = throttle
        self._courtesy = courtesy
        self._rate = Rate(limits.rows_per_second)
        self._sleep = sleep
        self._clock = clock
        self._held_seconds = 0.0
        self._next_beat = 0.0

    @property
    def working_seconds(self) -> float:
        """A clock that stands still while the run is paused, throttled or held by its rate."""
        return self._clock() - self._held_seconds

    def batch_rows(self) -> int:
        """How many rows the next batch may have, once there is no reason to wait. Raises as `hold`."""
        self.hold()
        return self._rate.largest_batch(self.chunk.rows)

    def hold(self) -> None:
        """Wait for as long as there is a reason to.

        Raises `Superseded` once the transfer is aborted or somebody else's, and `DatabaseUnavailable`.
        """
        began = self._clock()
        while self._beat() is State.PAUSED or self._held_back() or self._wait_seconds:
            self._sleep(max(0.005, min(STEP_SECONDS, self._wait_seconds or STEP_SECONDS)))
            now = self._clock()
            self._held_seconds += now - began
            began = now

    @property
    def throttle_reason(self) -> str | None:
        """Why the run is slower than it could be, for operators."""
        return self._pressure or self._courtesy.reason

    @property
    def _wait_seconds(self) -> float:
        return max(self._rate.wait_seconds, self._courtesy.wait_seconds)

    def spent(self, rows: int, seconds: float) -> None:
        """A batch was marked."""
        self._rate.spend(rows)
        self.chunk.took(rows, seconds)

    def wait(self, seconds: float) -> None:
        """Rest, and keep the lease."""
        until = self._clock() + seconds
        while (left := until - self._clock()) > 0:
            self._beat()
            self._sleep(min(STEP_SECONDS, left))

    def _beat(self) -> State:
        now = self._clock()
        if now < self._next_beat:
            return self._records.state(self._transfer_id, holder=self._holder)
        self._next_beat = now + BEAT_SECONDS
        return self._records.beat(
            self._transfer_id,
            holder=self._holder,
            phase=self.course.phase,
            throttle_reason=self.throttle_reason,
            cursors=self.course.cursors,
        )

    def _held_back(self) -> bool:
        reason = self._throttle.reason()
        if bool(reason) != bool(self._pressure):
            self._next_beat = 0.0
            self._records.note(self._transfer_id, "throttled" if reason else "unthrottled", reason=reason)
            if reason:
                self.chunk.halve()
        self._pressure = reason
        return reason is not None
