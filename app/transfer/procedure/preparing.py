"""The gates before any row moves: may it begin, is there a way back, do both tracks work side by side?"""

from __future__ import annotations

import time

from app.tasks.model import PRIORITIES
from app.transfer import backup, baseline, trials
from app.transfer.preflight import Grade, preflight
from app.transfer.procedure.gates import Gate, Ground, Outcome, has_backup, has_baseline, judged, rules_hold
from app.transfer.sampling import Sampler
from app.transfer.wiring import settings_of

TRIALS_PER_PRIORITY = 25  # a hundred: at a share of ten percent, one in 40,000 runs sees no Redis
SAMPLE_SECONDS = 2.0


def check_preflight(ground: Ground) -> Outcome:
    """Every check of the preflight."""
    checks = preflight(ground.system)
    wrong = [check for check in checks if check.grade in (Grade.FAIL, Grade.UNREAD)]
    warned = [check.name for check in checks if check.grade is Grade.WARN]
    if wrong:
        said = "; ".join(f"{check.name}: {check.said}" for check in wrong)
        return Outcome(False, said, "; ".join(check.fix for check in wrong))
    said = f"{len(checks)} checks" + (f", warnings: {', '.join(warned)}" if warned else ", no warning")
    return Outcome(True, said)


def make_backup(ground: Ground) -> Outcome:
    folder = ground.place("backup")
    facts = {"settings": settings_of(ground.system)}
    backup.create(ground.system.store.database, folder, facts=facts)
    return has_backup(ground, folder)


def record_baseline(ground: Ground) -> Outcome:
    folder = ground.place("baseline")
    baseline.record(ground.system.store.database, folder)
    return has_baseline(ground, folder)


def share_tracks(ground: Ground) -> Outcome:
    """Send a share of the tasks by Redis."""
    percent = ground.plan.choices.hybrid_percent or 0
    rules = ground.system.queue.route(redis_percent=percent, priorities=PRIORITIES, forget_names=True)
    fallen = [priority.value for priority, route in rules.items() if route.fallback]
    if fallen:
        fix = "wait until Redis answers again and the fallback has ended, then --resume"
        return Outcome(False, f"{', '.join(fallen)} have fallen back to the database", fix)
    return Outcome(True, f"{percent} % of the tasks take the Redis track")


def try_both_tracks(ground: Ground) -> Outcome:
    """Test tasks of every priority on both tracks, followed to their end."""
    before = Sampler(ground.system).take().ended
    limit = ground.plan.choices.trial_seconds
    done = trials.follow(ground.system, TRIALS_PER_PRIORITY, limit_seconds=limit, on_look=ground.check)
    outcome = judged(ground, done, ended_before=before)
    if outcome.passed and ground.plan.choices.hybrid_percent and "DISPATCHED" not in done.first_statuses:
        fix = "see that submission is open and no queue has fallen back, then --resume"
        return Outcome(False, f"{outcome.said}: none went by Redis", fix)
    return outcome


def watch_both_tracks(ground: Ground) -> Outcome:
    """Look at the system for a while: Redis answers, workers live, nothing fails more than before."""
    sampler = Sampler(ground.system)
    first = last = sampler.take()
    until = time.monotonic() + ground.plan.choices.hybrid_seconds
    looks = 1
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(SAMPLE_SECONDS, left))
        ground.check()
        last, looks = sampler.take(), looks + 1
        if last.fallback:
            fix = "see to Redis; when the fallback has ended, --resume"
            return Outcome(False, "Redis was away: the tasks fell back to the database", fix)
    if not sum(last.workers.values()):
        return Outcome(False, "no worker lives", "start some: python scripts/start_workers.py")
    ended, failed = last.ended - first.ended, last.failed - first.failed
    if failed > max(5, ended / 2):
        fix = "look at the dead letters on the admin page; if the tasks themselves are to blame, --resume"
        return Outcome(False, f"{failed:,} of {ended:,} tasks failed meanwhile", fix)
    lag = "-" if last.lag_seconds is None else f"{last.lag_seconds:.1f} s"
    return Outcome(True, f"{looks} looks, {ended:,} tasks ended, {failed:,} of them failed, lag {lag}")


PREPARE = (
    Gate("preflight", check_preflight, asks="Servers, settings, clocks and room were right"),
    Gate("rules before", rules_hold, acceptable=True),
    Gate("backup", make_backup, once=True, asks="A backup of every table exists, and its checksums hold"),
    Gate("baseline", record_baseline, once=True, asks="Every row was recorded before the move"),
)
HYBRID = (
    Gate("share", share_tracks),
    Gate("both tracks", try_both_tracks, asks="Both tracks worked side by side"),
    Gate("watch", watch_both_tracks, once=True, acceptable=True, asks="The system held still under both"),
)
