"""Routing as a value: where a waiting task belongs, who may claim, and whether intake is open.

One row per priority. Every change raises its `version`; a submission decides by the copy that it knows and
its insert is guarded by that version under a shared lock, so that after a flip has committed no new row of
the old track can appear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from app.tasks.ids import bucket_of
from app.tasks.model import LANES, NewTask, Priority, Status, Track


class Intake(StrEnum):
    """What happens to submissions: taken, kept as SCHEDULED until the pause ends, or refused."""

    OPEN = "open"
    HOLD = "hold"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Route:
    """The rules of one priority."""

    priority: Priority
    version: int
    redis_percent: int
    name_percents: Mapping[str, int] = field(default_factory=dict)
    paused: bool = False
    fenced_track: Track | None = None
    fallback: bool = False
    intake: Intake = Intake.OPEN
    intake_until: datetime | None = None
    intake_reason: str | None = None
    transfer_id: int | None = None
    moving_to: Track | None = None

    def percent_of(self, name: str) -> int:
        """The share of tasks of this name, in percent, that takes the Redis track."""
        if self.fallback:
            return 0
        return self.name_percents.get(name, self.redis_percent)

    @property
    def whole_track(self) -> Track | None:
        """The track that all tasks of this priority take; None where it is a matter of shares."""
        shares = {self.redis_percent, *self.name_percents.values()}
        if self.fallback or shares == {0}:
            return Track.DATABASE
        return Track.REDIS if shares == {100} else None

    def track_of(self, task_id: int, name: str) -> Track:
        """The track of a task: a function of its row and these rules alone."""
        return Track.REDIS if bucket_of(task_id) < self.percent_of(name) else Track.DATABASE

    def intake_at(self, now: datetime) -> Intake:
        """The intake mode at `now` (aware): a pause with an end is over at its end."""
        if self.intake_until is not None and now >= self.intake_until:
            return Intake.OPEN
        return self.intake

    def waiting_status(self, task_id: int, name: str) -> Status:
        return self.track_of(task_id, name).waiting_status

    def first_status(self, new: NewTask) -> Status:
        """Where a new task waits that nothing holds up: that of a pool in the database, in its lane."""
        return Status.QUEUED if new.lane is not None else self.waiting_status(new.task_id, new.name)

    @property
    def tolerates_both_tracks(self) -> bool:
        """A transfer brings rows to their new track ahead of the flip: none of them is misplaced."""
        return self.moving_to is not None and not self.fallback

    def may_claim(self, track: Track) -> bool:
        return not self.paused and self.fenced_track is not track


Routing = Mapping[Priority, Route]
LANE_ROUTES: Routing = {lane: Route(lane, version=0, redis_percent=0) for lane in LANES}
"""Who waits in a lane, of a flow or of a pool, waits in the database, and no rule moves it."""
