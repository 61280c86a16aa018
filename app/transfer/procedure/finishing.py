"""The gates after the move: everything by Redis, fast enough, by the rules; then tidied, and written down."""

from __future__ import annotations

import time

from app.tasks.model import PRIORITIES, Status, Track
from app.tasks.routing import Intake
from app.transfer import history, performance, runs, trials
from app.transfer.procedure.gates import Gate, Ground, Outcome, judged, rules_hold
from app.transfer.sampling import Sampler

TRIALS_PER_PRIORITY = 5
TIDY_SECONDS = 60.0
LOOK_SECONDS = 0.2


def route_all_by_redis(ground: Ground) -> Outcome:
    """The routing of every priority, set and read again."""
    rules = ground.system.queue.route(redis_percent=100, priorities=PRIORITIES, forget_names=True)
    closed = [
        priority.value
        for priority, route in rules.items()
        if route.whole_track is not Track.REDIS or not route.may_claim(Track.REDIS)
    ]
    if closed:
        fix = "resume what is paused; a fallback ends when Redis has answered for some seconds; then --resume"
        return Outcome(False, f"not served by Redis: {', '.join(closed)}", fix)
    mode = ground.system.config.mode
    more = "" if mode == "redis" else f"; the settings still say {mode}: RQ_HYBRID_MODE=false from now on"
    return Outcome(True, f"every task takes the Redis track{more}")


def nothing_in_the_database(ground: Ground) -> Outcome:
    left = runs.drain(
        ground.system.queue,
        PRIORITIES,
        limit_seconds=ground.plan.choices.trial_seconds,
        statuses=(Status.QUEUED,),
        waiting=lambda _: ground.check(),
    )
    if left:
        return Outcome(
            False, f"{left:,} tasks wait in the database", "see that a sweeper runs, then --resume"
        )
    return Outcome(True, "no task waits in the database")


def open_submission(ground: Ground) -> Outcome:
    """End the hold that was ours. A pause of an operator's stays."""
    release(ground)
    rules = ground.system.store.routing.refresh().values()
    if any(route.intake is not Intake.OPEN for route in rules):
        return Outcome(True, "submission is paused by an operator, and stays so")
    return Outcome(True, "submission is open")


def release(ground: Ground) -> None:
    """Let held tasks go, if we hold them."""
    if ground.facts.get("held"):
        ground.system.queue.resume_intake()
        del ground.facts["held"]  # once it is so: what fails is tried again by the next one


def fast_enough(ground: Ground) -> Outcome:
    done = performance.validate(ground.system)
    said = (
        f"{done.mean_seconds * 1000:.1f} ms on average of {done.submissions} submissions,"
        f" {done.accepted_at_once} of {done.at_once} at once accepted"
    )
    fix = "see what the servers do beside this, then --resume"
    return Outcome(True, said) if done.good else Outcome(False, "; ".join([said, *done.shortfalls]), fix)


def tasks_end(ground: Ground) -> Outcome:
    """Test tasks of every priority, by Redis, to their end."""
    before = Sampler(ground.system).take().ended
    limit = ground.plan.choices.trial_seconds
    done = trials.follow(ground.system, TRIALS_PER_PRIORITY, limit_seconds=limit, on_look=ground.check)
    return judged(ground, done, ended_before=before)


def remove_trials(ground: Ground) -> Outcome:
    until = time.monotonic() + TIDY_SECONDS
    deleted = 0
    while True:
        done = trials.remove(ground.system)
        deleted += done.deleted
        if not done.left:
            return Outcome(True, f"{deleted:,} test tasks removed")
        if time.monotonic() >= until:
            fix = "submit_test_tasks.py --remove when they have ended, then --resume"
            return Outcome(False, f"{done.left} test tasks still run", fix)
        ground.check()
        time.sleep(LOOK_SECONDS)


def write_history(ground: Ground) -> Outcome:
    reports = [report["name"] for report in ground.facts.get("reports", [])]
    evidence = f"{ground.facts.get('moved', 0):,} rows moved; plan {ground.plan.hash}; {', '.join(reports)}"
    page = ground.plan.choices.history
    history.add(ground.history, what=f"{ground.subject}: to Redis", outcome="completed", evidence=evidence)
    return Outcome(True, f"a line in {page}")


REDIS_ONLY = (
    Gate("routing", route_all_by_redis, asks="Every task takes the Redis track"),
    Gate("database empty", nothing_in_the_database, asks="Nothing waits in the database"),
    Gate("submission", open_submission, asks="Submission is as it was before"),
)
VALIDATE = (
    Gate("performance", fast_enough, acceptable=True, asks="Submission is fast enough, also many at once"),
    Gate("tasks end", tasks_end, asks="Tasks of every priority come to their end"),
    Gate("rules after", rules_hold, acceptable=True, asks="The rules of the tables hold"),
)
CLEAN_UP = (
    Gate("test tasks", remove_trials, asks="Test tasks are gone"),
    Gate("history", write_history, once=True, asks="The migration history has its line"),
)
