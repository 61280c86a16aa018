"""The sweeper: one at a time, reclaims with evidence, moves what is due, and a bounded price per pass."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.tasks.errors import DatabaseUnavailable
from app.tasks.healing import FULL_PASS_SECONDS, LOCK, Healed, Sweeper
from app.tasks.model import Priority
from app.tasks.pacing import LOCK_SECONDS, LOCK_SPARE_SECONDS, Pace
from app.tasks.queue import TaskQueue
from app.tasks.routing import Intake
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.looks import Looks
from app.tasks.store.notices import Topic
from app.tasks.store.registry import Registry
from app.tasks.tickets import RQQueueManager
from tests.clocks import Clock
from tests.contract.parts import HANDLERS, counted, request
from tests.contract.rows import TOKEN, Rows
from tests.waiting import wait_until

LEASE = 30.0
INTERVAL = LEASE / 3
OVER = -2.0


class Setting:
    """Sweepers over one database, with a clock that moves when the test says so."""

    def __init__(self, store: Store, rows: Rows, tickets: RQQueueManager | None = None) -> None:
        self.store, self.rows = store, rows
        self.clock = Clock()
        self.queue = TaskQueue(store, HANDLERS, tickets, CoreSettings(lease_seconds=LEASE, max_retries=3))
        self.dead: set[str] = set()
        self.sweeper = self.another("the sweeper")

    def another(self, holder: str) -> Sweeper:
        return Sweeper(
            self.queue,
            holder=holder,
            clock=self.clock,
            dead_holders=self.dead.intersection,
        )

    def sweep(self, *, after: float = 0.0) -> Healed:
        self.clock.now += after
        healed = self.sweeper.full_pass()
        assert healed is not None
        return healed

    def sweep_for(self, seconds: float) -> int:
        """Pass after pass, as the pool does it; how many tasks were reclaimed."""
        end, reclaimed = self.clock.now + seconds, 0
        while self.clock.now < end:
            reclaimed += self.sweep(after=min(FULL_PASS_SECONDS, end - self.clock.now)).reclaimed
        return reclaimed


@pytest.fixture
def setting(sqlite_store: Store, sqlite_rows: Rows) -> Setting:
    return Setting(sqlite_store, sqlite_rows)


# --- the lock ----------------------------------------------------------------------------------------


def test_a_sweeper_whose_forerunner_is_buried_while_it_looks_is_active_at_once(setting: Setting) -> None:
    """The keeper beside it has freed the dead one's lock and removed its file: no proof is left."""
    assert setting.sweeper.step() is not None

    def buried_meanwhile(holders: Iterable[str]) -> list[str]:
        setting.store.registry.unlock(LOCK, "the sweeper")
        return []

    heir = Sweeper(setting.queue, holder="the heir", clock=setting.clock, dead_holders=buried_meanwhile)
    assert heir.step() is not None


# --- expired leases ----------------------------------------------------------------------------------


def test_an_expired_lease_is_reclaimed_once_it_was_seen_expired_for_a_renewal_interval(
    setting: Setting,
) -> None:
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    assert setting.sweep().reclaimed == 0
    assert setting.sweep_for(INTERVAL - 0.1) == 0
    assert setting.rows.status(task_id) == "PROCESSING"
    assert setting.sweep(after=0.2).reclaimed == 1
    row = setting.rows.row(task_id)
    assert (row["status"], row["failures"], row["epoch"]) == ("DISPATCHED", 1, 4)


def test_a_lease_that_is_renewed_in_time_is_not_reclaimed(setting: Setting) -> None:
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL / 2)
    setting.rows.change(task_id, lease_until=setting.rows.at(LEASE))
    assert setting.sweep_for(2 * INTERVAL) == 0
    setting.rows.change(task_id, lease_until=setting.rows.at(OVER))
    assert setting.sweep().reclaimed == 0
    assert setting.sweep_for(INTERVAL + 1) == 1


def test_a_lease_that_is_renewed_at_the_last_moment_is_not_reclaimed(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL - 1)
    expired = type(setting.store.moves).expired

    def renewed_after_the_look(*arguments: Any, **options: Any) -> Any:
        found = expired(*arguments, **options)
        setting.rows.change(task_id, lease_until=setting.rows.at(LEASE))
        return found

    monkeypatch.setattr(type(setting.store.moves), "expired", renewed_after_the_look)
    assert setting.sweep(after=2).reclaimed == 0
    assert setting.rows.status(task_id) == "PROCESSING"


def test_a_lease_that_was_seen_not_to_be_renewed_is_reclaimed_as_soon_as_it_is_over(setting: Setting) -> None:
    """A dead worker of another host is waited for until its lease ends, and not for an interval more."""
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(3))
    lease = setting.rows.row(task_id)["lease_until"]
    setting.sweep()
    reclaimed = setting.sweep_for(INTERVAL + 1)
    assert not reclaimed or setting.rows.seconds_from_now(lease) < 0, "too early by the database"
    wait_until(
        lambda: reclaimed or setting.sweep().reclaimed == 1, deadline_seconds=60, what="the end of the lease"
    )


def test_evidence_about_one_lease_is_none_about_the_next_of_the_same_claim(setting: Setting) -> None:
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL - 1)
    setting.rows.change(task_id, lease_until=setting.rows.at(OVER + 1))  # renewed, and over again
    assert setting.sweep_for(INTERVAL - 1) == 0
    assert setting.sweep_for(FULL_PASS_SECONDS + 1) == 1


def test_evidence_about_one_claim_is_none_about_the_next(setting: Setting) -> None:
    task_id = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL / 2)
    setting.rows.change(task_id, token=TOKEN + 1)
    assert setting.sweep_for(INTERVAL - 1) == 0
    assert setting.sweep_for(FULL_PASS_SECONDS + 1) == 1


@pytest.mark.parametrize("where", [(Looks, "glance"), (Registry, "forget_silent")])
def test_an_outage_of_the_database_starts_the_evidence_anew(
    where: tuple[type, str], setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL / 2)

    def away(*_: Any, **__: Any) -> Any:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(*where, away)
        for _ in range(4):
            setting.clock.now += 1
            with pytest.raises(DatabaseUnavailable):
                setting.sweeper.full_pass()
    assert setting.sweep(after=1).reclaimed == 0
    assert setting.sweep_for(INTERVAL - 1) == 0
    assert setting.sweep_for(FULL_PASS_SECONDS) == 1


def test_a_time_in_which_nobody_looked_is_no_evidence(setting: Setting) -> None:
    """The sweeper was frozen, or the database took its time to answer: workers could not renew either."""
    setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    assert setting.sweep(after=60).reclaimed == 0
    assert setting.sweep_for(INTERVAL - 1) == 0
    assert setting.sweep_for(FULL_PASS_SECONDS) == 1


def test_a_database_that_hangs_for_a_while_is_no_evidence(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    expired = type(setting.store.moves).expired

    def slow(*arguments: Any, **options: Any) -> Any:
        setting.clock.now += 45
        return expired(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(type(setting.store.moves), "expired", slow)
        assert setting.sweep(after=1).reclaimed == 0
    assert setting.sweep(after=1).reclaimed == 0
    assert setting.sweep_for(INTERVAL) == 1


def test_a_parked_task_ends_and_an_unknown_one_is_tried_again(setting: Setting) -> None:
    over = setting.rows.at(OVER)
    parked = setting.rows.put("PROCESSING", name="test.park", lease_until=over)
    unknown = setting.rows.put("PROCESSING", name="of another release", lease_until=over)
    used_up = setting.rows.put("PROCESSING", failures=3, lease_until=over)
    own_limit = setting.rows.put("PROCESSING", failures=3, max_retries=4, lease_until=over)
    setting.sweep()
    assert setting.sweep_for(INTERVAL + 1) == 4
    statuses = [setting.rows.status(task_id) for task_id in (parked, unknown, used_up, own_limit)]
    assert statuses == ["FAILED", "DISPATCHED", "FAILED", "DISPATCHED"]


def test_a_reclaimed_task_goes_before_those_that_wait(
    sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    setting = Setting(sqlite_store, sqlite_rows, tickets)
    waiting = setting.queue.submit(request()).task_id
    lost = setting.rows.put("PROCESSING", lease_until=setting.rows.at(OVER))
    setting.sweep()
    setting.sweep_for(INTERVAL + 1)
    assert raw.lrange("rq:queue:normal", 0, -1) == [f"t{lost}-e4", f"t{waiting}-e1"]


# --- one sweeper at a time ---------------------------------------------------------------------------


def test_of_two_sweepers_one_works_until_it_leaves(setting: Setting) -> None:
    one, two = setting.another("one"), setting.another("two")
    assert one.step() is not None
    assert two.step() is None
    assert one.step() is not None
    one.leave()
    assert two.step() is not None
    assert one.step() is None


def test_a_silent_sweepers_lock_runs_out(setting: Setting) -> None:
    one, two = setting.another("one"), setting.another("two")
    one.step()
    until = setting.rows.scalar("SELECT until_at FROM locks")
    idle = Pace.of(setting.queue.settings).idle_seconds
    assert 0 < setting.rows.seconds_from_now(until) <= idle + LOCK_SPARE_SECONDS
    setting.rows.execute("UPDATE locks SET until_at = :at", at=setting.rows.at(-1))
    assert two.step() is not None
    assert one.step() is None


def test_while_anything_runs_the_lock_is_a_short_one(setting: Setting) -> None:
    """Another host's sweeper must have seen a lease for an interval by the time that it ends."""
    setting.rows.put("PROCESSING", lease_until=setting.rows.at(LEASE))
    for after in (0.0, LOCK_SECONDS):
        setting.sweep(after=after)
        until = setting.rows.scalar("SELECT until_at FROM locks")
        assert 0 < setting.rows.seconds_from_now(until) <= LOCK_SECONDS < LEASE - INTERVAL
        setting.rows.execute("UPDATE locks SET until_at = :at", at=setting.rows.at(1))


def test_an_idle_sweeper_keeps_its_lock_over_its_sleep_by_one_statement_per_look(setting: Setting) -> None:
    setting.sweep()
    for _ in range(2):
        setting.clock.now += setting.sweeper.pause_seconds
        setting.rows.execute("UPDATE locks SET until_at = :at", at=setting.rows.at(LOCK_SPARE_SECONDS))
        with counted(setting.store.database) as seen:
            assert setting.sweeper.step() is not None
        assert seen["statements"] <= 2
        left = setting.rows.seconds_from_now(setting.rows.scalar("SELECT until_at FROM locks"))
        assert left > setting.sweeper.pause_seconds


def test_the_lock_of_a_sweeper_that_is_proven_dead_is_broken_at_once(setting: Setting) -> None:
    one, two = setting.another("one"), setting.another("two")
    one.step()
    setting.dead.add("one")
    assert two.step() is not None


# --- what is due -------------------------------------------------------------------------------------


def test_a_due_task_is_on_its_way_with_the_next_step(setting: Setting) -> None:
    task_id = setting.rows.put("SCHEDULED", run_at=setting.rows.at(60))
    setting.sweep()
    setting.rows.change(task_id, run_at=setting.rows.at(-1))
    healed = setting.sweeper.step()
    assert healed is not None
    assert healed.due == 1
    assert setting.rows.status(task_id) == "DISPATCHED"


def test_many_due_tasks_go_in_one_step(setting: Setting) -> None:
    setting.rows.put("SCHEDULED", count=1200, run_at=setting.rows.at(-1))
    healed = setting.sweeper.step()
    assert healed is not None
    assert (healed.due, setting.rows.count("SCHEDULED")) == (1200, 0)


def test_full_passes_are_seconds_apart_and_steps_are_not(setting: Setting) -> None:
    setting.sweep()
    setting.rows.put("QUEUED")
    quick = setting.sweeper.step()
    setting.clock.now += FULL_PASS_SECONDS
    full = setting.sweeper.step()
    assert quick is not None
    assert full is not None
    assert (quick.moved, full.moved) == (0, 1)


@pytest.mark.parametrize("mode", [Intake.HOLD, Intake.REFUSE])
def test_a_pause_of_intake_that_is_over_is_ended_and_its_holds_are_lifted(
    mode: Intake, setting: Setting
) -> None:
    held = setting.rows.put("SCHEDULED", held=True, run_at=None)
    soon = datetime.now(UTC) + timedelta(hours=1)
    setting.store.routing.change(intake=mode, intake_until=soon, intake_reason="upgrade")
    assert setting.sweep().held == 0
    setting.store.routing.change(intake_until=datetime.now(UTC) - timedelta(seconds=1))
    assert setting.sweep().held == 1
    assert setting.rows.status(held) == "DISPATCHED"
    rule = setting.store.routing.refresh()[Priority.LOW]
    assert (rule.intake, rule.intake_until, rule.intake_reason) == (Intake.OPEN, None, None)


def test_waiting_rows_on_the_wrong_track_are_moved(setting: Setting) -> None:
    setting.rows.put("QUEUED", count=3, priority="low")
    setting.rows.put("DISPATCHED", count=2, priority="high")
    setting.store.routing.change([Priority.HIGH], redis_percent=0)
    assert setting.sweep().moved == 5
    assert (setting.rows.count("DISPATCHED"), setting.rows.count("QUEUED")) == (3, 2)


def test_workers_that_fell_silent_are_forgotten(setting: Setting) -> None:
    setting.store.registry.arrive("w", host="here", pid=1, track="redis", queues=["low"])
    setting.sweep()
    assert setting.rows.scalar("SELECT COUNT(*) FROM workers") == 1
    setting.rows.execute("UPDATE workers SET seen_at = :at", at=setting.rows.at(-3600))
    setting.sweep()
    assert setting.rows.scalar("SELECT COUNT(*) FROM workers") == 0


# --- rings that were lost ----------------------------------------------------------------------------


def test_a_pass_rings_once_more_for_rows_that_wait(setting: Setting) -> None:
    """Who made them wait may have died between its commit and its ring."""
    setting.store.routing.change(redis_percent=0)
    poller = setting.store.notices.listen(Topic.ROWS)
    setting.sweep()
    assert not poller.wait(0)
    setting.rows.put("QUEUED")
    setting.sweep()
    assert poller.wait(0)
    setting.store.routing.change(paused=True)
    setting.sweep()
    assert not poller.wait(0)
    poller.close()


def test_beside_redis_a_pass_rings_once_more_for_what_waits_on_either_track(
    sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager, raw: Any
) -> None:
    """Who had heard the first ring may have died before it looked."""
    setting = Setting(sqlite_store, sqlite_rows, tickets)
    setting.store.routing.change([Priority.LOW], redis_percent=0)
    setting.queue.submit(request())
    setting.rows.put("QUEUED", priority="low")
    bells = ("twintrack:bell:normal", "twintrack:bell:rows:low")
    raw.delete(*bells)
    for _ in range(2):
        setting.sweep()
        assert [raw.llen(key) for key in bells] == [1, 1]
    assert raw.exists("twintrack:bell:low", "twintrack:bell:urgent", "twintrack:bell:high") == 0


# --- the price of a pass -----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["settled", "lost"])
def test_a_pass_costs_a_bounded_number_of_statements_however_many_rows_wait(
    state: str, sqlite_store: Store, sqlite_rows: Rows, tickets: RQQueueManager
) -> None:
    setting = Setting(sqlite_store, sqlite_rows, tickets)
    prices = []
    for count in (1, 20_000):
        incarnation = tickets.look(Priority.NORMAL).incarnation
        confirmed_in = incarnation if state == "settled" else 0
        since = sqlite_rows.at(-60)
        sqlite_rows.put("DISPATCHED", count=count, confirmed_in=confirmed_in, waiting_since=since)
        with counted(setting.store.database) as seen:
            healed = setting.sweep(after=FULL_PASS_SECONDS)
        assert healed.pushed > 0
        prices.append(seen["statements"])
    assert prices[0] < 40
    assert prices[1] < 120
