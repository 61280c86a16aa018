"""When a schedule runs next: cron expressions in a time zone, and intervals. Pure: no clock, no database.

Cron expressions are expanded by croniter on the local wall clock alone; what a shift of that clock means is
decided here, because croniter's own answers around such shifts are wrong in several releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

CRON_CHARACTERS = 100
LONGEST_INTERVAL_SECONDS = 366 * 86_400
ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")

_FIELDS = 5
_RANDOM = re.compile(r"(^|[\s,])[hr](?=[\s,/(]|$)", re.IGNORECASE)
# No zone has put its clock back by more in living memory.
_LONGEST_SHIFT = timedelta(hours=3)
_SECOND = timedelta(seconds=1)
_ANY_WALL = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class Recurrence:
    """Either a cron expression in a time zone, or every so many seconds."""

    cron: str | None = None
    interval_seconds: int | None = None
    time_zone: str = "UTC"

    def first_after(self, moment: datetime) -> datetime:
        """The first planned time after `moment` (aware); an interval begins to count there."""
        if self.interval_seconds is not None:
            return _whole(moment) + timedelta(seconds=self.interval_seconds)
        return self._next_by_cron(moment)

    def next_after(self, planned: datetime, moment: datetime) -> datetime:
        """The first planned time after `moment`, given an earlier one: an interval keeps its beat."""
        if self.interval_seconds is None:
            return self._next_by_cron(max(planned, moment))
        beat = timedelta(seconds=self.interval_seconds)
        return planned + beat * (max(moment - planned, timedelta(0)) // beat + 1)

    def _next_by_cron(self, moment: datetime) -> datetime:
        assert self.cron is not None
        zone = ZoneInfo(self.time_zone)
        rule = (_next_in_every_hour if runs_every_hour(self.cron) else _next_at_fixed_times)(
            self.cron, zone, moment
        )
        return rule.astimezone(UTC)


def cron_problem(expression: str) -> str | None:
    """What is wrong with a cron expression; None if it is good.

    Good are five fields (minute, hour, day of month, month, day of week) and the usual @words.
    """
    from croniter import croniter

    words = "must be five fields: minute, hour, day of month, month, day of week; for example 0 6 * * 1-5"
    if not expression.isascii() or not expression.isprintable() or len(expression) > CRON_CHARACTERS:
        return words
    if expression.startswith("@"):
        return None if expression in ALIASES else f"is not one of {', '.join(ALIASES)}"
    if len(expression.split()) != _FIELDS or _RANDOM.search(expression):
        return words
    try:
        croniter.expand(expression, strict=True)
        next(_walls(expression, _ANY_WALL))
    except (ValueError, KeyError, IndexError, StopIteration):
        return f"{expression!r} is no cron expression that ever comes true"
    return None


def time_zone_problem(name: str) -> str | None:
    """What is wrong with a time zone's name; None if this machine knows it."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, a path that leaves the folder, a folder
        return f"{name[:60]!r} is no time zone that is known here; for example Europe/Berlin or UTC"
    return None


@lru_cache(maxsize=256)
def runs_every_hour(cron: str) -> bool:
    """True if no hour is left out. Such a schedule follows the time that passes and not the wall clock: it
    runs in both turns of a repeated hour, and has nothing to make up for a skipped one."""
    from croniter import croniter

    hours = croniter.expand(cron)[0][1]
    return hours == ["*"] or len(set(hours)) == 24


def _walls(cron: str, after: datetime) -> Iterator[datetime]:
    """The wall-clock times that fit, ascending, strictly after `after` (naive)."""
    from croniter import croniter

    times = croniter(cron, after)
    while True:
        yield times.get_next(datetime)


def _next_at_fixed_times(cron: str, zone: ZoneInfo, moment: datetime) -> datetime:
    """A wall time that the clock skips runs at the shift, one that comes twice runs at the first."""
    for wall in _walls(cron, _wall(moment, zone)):
        planned = _first_instant(wall, zone) or _shift_over(wall, zone)
        if planned > moment:
            return planned
    raise AssertionError("unreachable: a checked expression comes true again and again")


def _next_in_every_hour(cron: str, zone: ZoneInfo, moment: datetime) -> datetime:
    """Every instant at which the wall clock shows a fitting time, repeated ones included."""
    start = _wall(moment, zone)
    if _offset(moment - _LONGEST_SHIFT, zone) != _offset(moment + _LONGEST_SHIFT, zone):
        start -= _LONGEST_SHIFT  # walls that have been may come again
    best: datetime | None = None
    for wall in _walls(cron, start):
        instants = _instants(wall, zone)
        best = min((one for one in (best, *instants) if one is not None and one > moment), default=None)
        if best is not None and wall.replace(tzinfo=zone).astimezone(UTC) >= best:
            return best
    raise AssertionError("unreachable: a checked expression comes true again and again")


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the wall clock shows at an instant, in whole seconds."""
    return moment.astimezone(zone).replace(tzinfo=None, microsecond=0)


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


def _instants(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """The instants at which the wall clock shows this: none in a gap, two in a repeated hour."""
    both = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(one for one in both if _wall(one, zone) == wall)


def _first_instant(wall: datetime, zone: ZoneInfo) -> datetime | None:
    return next(iter(_instants(wall, zone)), None)


def _shift_over(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clock jumped over this wall time."""
    before, after = sorted(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    old = _offset(before, zone)
    while after - before > _SECOND:
        middle = _whole(before + (after - before) / 2)
        before, after = (middle, after) if _offset(middle, zone) == old else (before, middle)
    return after
