"""DistributedProcessor: records in, records claimed, records ended.

A record is a task that waits in the lane of its flow. Whoever processes the flow claims it under a lease,
which is renewed for as long as this process lives; who dies loses it, and another claims it again.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import structlog

from app.distributed.databases import DatabaseManager
from app.distributed.flow_settings import ConfigManager
from app.distributed.lost import LostRecords, is_delicate
from app.distributed.new_records import NewRecords, checked_flow
from app.system import System, build_system
from app.tasks.errors import DatabaseUnavailable, IntakePaused, TaskError
from app.tasks.handlers import to_json
from app.tasks.model import WAITING, Claim, Completed, Failed, Outcome, Released, Status
from app.tasks.reclaims import Reclaims
from app.tasks.runner import LiveTask, boot_clock
from app.tasks.sentences import ERROR_CHARACTERS, storable
from app.tasks.store.settling import Settled

BATCH_LIMIT = 10_000
ORPHANS_AT_A_TIME = 500
INTAKE_RETRY_SECONDS = 60

WORDS: Mapping[Status, str] = {
    **dict.fromkeys(WAITING, "pending_records"),
    Status.PROCESSING: "processing_records",
    Status.COMPLETED: "completed_records",
    **dict.fromkeys((Status.FAILED, Status.CANCELLED, Status.QUARANTINED), "failed_records"),
}

log = structlog.get_logger(__name__)


class DistributedProcessor:
    """One process's hold on records. Safe for threads; use one per process, and `close` it at the end."""

    def __init__(
        self, database: DatabaseManager | None = None, source_database: DatabaseManager | None = None
    ) -> None:
        """`database` holds the queue (default: the one of DATABASE_URL); `source_database` is what the
        business logic reads from. Raises `ConfigError` for settings that cannot work."""
        self.database = database or DatabaseManager()
        self._own_database = database is None
        self.source_database = source_database
        self.instance_id = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._system = build_system(self.database.queue_config())
        self._store = self._system.store
        self._new = NewRecords(self._system.settings)
        self._lease = self._system.settings.lease_seconds
        self._reclaims = Reclaims(self._system.queue)
        self._lost = LostRecords(self._store, self._reclaims, lease_seconds=self._lease)
        self._claiming = threading.Lock()
        self._alone: set[str] = set()
        self._held: dict[int, LiveTask] = {}
        self._lock = threading.Lock()
        self._renewal: threading.Thread | None = None
        self._over = threading.Event()

    @property
    def system(self) -> System:
        return self._system

    # --- records come in ------------------------------------------------------------------------------

    def add_records_to_queue(
        self,
        flow: str,
        records: Iterable[Mapping[str, Any]],
        *,
        key: str | Callable[[Mapping[str, Any]], object] | None = None,
    ) -> int:
        """Add records to a flow, all or none. Returns how many were new.

        A record is a flat mapping, or `{"payload": …}`, with an optional `"key"` beside the payload. `key`
        names the field that tells records apart, or computes that: a record whose key the flow has had
        before is left out. Raises `InvalidTask` naming each wrong field,
        `IntakePaused` while the flow takes none in, and `DatabaseUnavailable`.
        """
        checked_flow(flow)
        settings = self.settings_of(flow)
        if not settings.get_variable("accept_records"):
            reason = f"accept_records is false for the flow {flow}"
            raise IntakePaused(reason=reason, until=None, retry_after_seconds=INTAKE_RETRY_SECONDS)
        retries = settings.get_variable("max_retries")
        news = self._new.checked(flow, records, key, retries)
        if not news:
            return 0
        lane = self._store.records.open_lane(flow)
        return self._store.records.add(lane, self._new.keyed(lane, news))

    def settings_of(self, flow: str) -> ConfigManager:
        """What a flow is set to."""
        return ConfigManager(flow, config=self._system.config, database=self._store.database)

    # --- records are claimed --------------------------------------------------------------------------

    def claim_records_batch(self, flow: str, n: int) -> list[dict[str, Any]]:
        """Claim up to `n` records of a flow, the oldest first, for this process alone: each with `id`,
        `flow_name`, `payload`, `retry_count`, `attempt`. Records that an earlier holder may have died of
        come one at a time. The claims are kept until they are marked, or this process ends."""
        return [
            {
                "id": claim.task_id,
                "flow_name": claim.name,
                "payload": json.loads(claim.payload),
                "retry_count": claim.failures,
                "attempt": claim.attempt,
            }
            for claim in (live.claim for live in self.claim(flow, n))
        ]

    def claim(self, flow: str, n: int) -> list[LiveTask]:
        """As `claim_records_batch`, for `distributed_processing_flow`."""
        lane = self._store.records.lane(checked_flow(flow))
        if lane is None or not self.settings_of(flow).get_variable("process_records"):
            return []
        limit = 1 if flow in self._alone else min(max(n, 1), BATCH_LIMIT)
        with self._claiming:
            lease_ends = boot_clock() + self._lease
            claims = self._claimed(lane, limit)
            if len(claims) < limit and self._has_brought_back(lane) and not claims:
                claims = self._claimed(lane, limit)
            self._alone.discard(flow)
            if claims and is_delicate(claims[0].failures, claims[0].max_retries):
                self._alone.add(flow)  # the next one is likely to come alone, too: lock no batch for it
        lives = [LiveTask(claim, self._store, lease_ends=lease_ends) for claim in claims]
        self._hold(lives)
        return lives

    def _claimed(self, lane: int, limit: int) -> list[Claim]:
        return self._store.claims.records(
            lane, holder=self.instance_id, limit=limit, lease_seconds=self._lease, is_alone=is_delicate
        )

    def _has_brought_back(self, lane: int) -> bool:
        """True if some lost record waits again. No error: what was claimed before must reach the caller."""
        try:
            return self._lost.reclaim(lane) > 0
        except DatabaseUnavailable as error:
            log.warning("records.lost_not_looked_for", reason=str(error))
            return False

    def _hold(self, lives: Sequence[LiveTask]) -> None:
        with self._lock:
            self._held |= {live.claim.task_id: live for live in lives}
            if self._held and (self._renewal is None or not self._renewal.is_alive()):
                self._renewal = threading.Thread(target=self._renew, name="records' leases", daemon=True)
                self._renewal.start()

    def _renew(self) -> None:
        """Keep the leases of what is held; ends once nothing is."""
        while not self._over.wait(self._lease / 3):
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._renewal = None
                    return
            try:
                asked = boot_clock()
                kept = self._store.claims.renew(
                    [live.claim for live in held.values()], lease_seconds=self._lease
                )
            except TaskError as error:
                log.warning("records.not_renewed", records=len(held), reason=str(error))
                continue
            for task_id, live in held.items():
                live.lost = (task_id, live.claim.token) not in kept
                live.lease_ends = live.lease_ends if live.lost else asked + self._lease

    def held(self, record_id: int) -> LiveTask | None:
        """The claim of this process on a record, if it has one."""
        return self._held.get(record_id)

    # --- records end ----------------------------------------------------------------------------------

    def mark_record_completed(self, record_id: int, result: Any = None) -> bool:
        """End a record as completed, with a result that JSON can hold. False: it is not this process's any
        more, and nothing was recorded. Raises `ValueError` or `TypeError` for another result."""
        live = self._held.get(record_id)
        return live is not None and self._mark(Completed(live.claim, to_json(result)))

    def mark_record_failed(self, record_id: int, error: str) -> bool:
        """End a record as failed, at once. False: it is not this process's any more."""
        live = self._held.get(record_id)
        return live is not None and self._mark(Failed(live.claim, storable(error)[:ERROR_CHARACTERS]))

    def _mark(self, outcome: Outcome) -> bool:
        settled = self.settled([outcome], self._store.settlements.settle([outcome]))
        return outcome.claim.task_id in settled.recorded

    def settled(self, outcomes: Sequence[Outcome], settled: Settled) -> Settled:
        """Let go of what was recorded, or lost."""
        with self._lock:
            for outcome in outcomes:
                self._held.pop(outcome.claim.task_id, None)
        return settled

    # --- looking ----------------------------------------------------------------------------------------

    def get_queue_status(self, flow: str | None = None) -> dict[str, Any]:
        """`total_records`, `pending_records`, `processing_records`, `completed_records`, `failed_records`, of
        one flow or of all with `by_flow`. Reads an index entry for each record that it counts."""
        if flow is not None:
            lane = self._store.records.lane(flow)
            own = {} if lane is None else self._store.records.counts(lane).get(lane, {})
            return {"flow_name": flow, **_figures(own)}
        lanes = self._store.records.lanes()
        counts = self._store.records.counts()
        by_flow = {name: _figures(counts.get(lane, {})) for name, lane in lanes.items()}
        names = _figures({})
        return {name: sum(of[name] for of in by_flow.values()) for name in names} | {"by_flow": by_flow}

    def has_open_records(self, flow: str) -> bool:
        """True while some record of the flow waits or is in processing; cheap, however many there are."""
        lane = self._store.records.lane(checked_flow(flow))
        return lane is not None and self._store.records.some_open(lane)

    def health_check(self) -> dict[str, Any]:
        """`status` healthy, degraded (the source is away, or a database is slow) or unhealthy (the queue's
        database is away), with `databases`, `queue_status` and `instance_info`. Never raises."""
        databases = {"queue": self.database.health_check()}
        if self.source_database is not None:
            databases["source"] = self.source_database.health_check()
        said: dict[str, Any] = {"databases": databases, "queue_status": None}
        said["instance_info"] = {
            "instance_id": self.instance_id,
            "held_records": len(self._held),
            "lease_seconds": self._lease,
        }
        states = {name: state["status"] for name, state in databases.items()}
        status = "healthy" if set(states.values()) == {"healthy"} else "degraded"
        try:
            if states["queue"] != "unhealthy":
                said["queue_status"] = self.get_queue_status()
        except (DatabaseUnavailable, TaskError) as error:
            said["error"] = str(error)
        return {"status": status if said["queue_status"] is not None else "unhealthy", **said}

    # --- many records at once -----------------------------------------------------------------------------

    def cleanup_orphaned_records(self, timeout_hours: float = 1.0, *, dry_run: bool = False) -> int:
        """Bring records back whose lease is over and which were claimed longer ago than so many hours. A
        record with no retry left ends as failed. Returns how many; with `dry_run`, how many it would be."""
        if timeout_hours < 0:
            raise ValueError("timeout_hours must not be negative")
        seconds = timeout_hours * 3600
        if dry_run:
            return self._store.records.count_orphans(older_than_seconds=seconds)
        total = 0
        while True:
            rows = self._store.records.orphans(None, older_than_seconds=seconds, limit=ORPHANS_AT_A_TIME)
            done = [self._reclaims.reclaim(row, "its holder is gone", only_expired=True) for row in rows]
            total += sum(done)
            if len(rows) < ORPHANS_AT_A_TIME or not any(done):
                return total

    def reset_failed_records(self, flow: str, max_retries: int = 3, *, dry_run: bool = False) -> int:
        """Let failed records of a flow with fewer than `max_retries` failures wait again; never those that
        no retry is allowed for. Returns how many."""
        lane = self._store.records.lane(checked_flow(flow))
        if lane is None:
            return 0
        records = self._store.records
        if dry_run:
            return records.resettable(lane, max_failures=max_retries)
        return records.reset(lane, max_failures=max_retries)

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give back what is held, unstarted or not marked, and close the connections, but for those of
        databases that were given."""
        self._over.set()
        with self._lock:
            held, self._held = list(self._held.values()), {}
            renewal = self._renewal
        if renewal is not None:
            renewal.join()
        try:
            if held:
                self._store.settlements.settle([Released(live.claim) for live in held])
        except TaskError as error:
            log.info("records.left_to_their_leases", records=len(held), reason=str(error))
        self._system.close()
        if self._own_database:
            self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _figures(counts: Mapping[Status, int]) -> dict[str, int]:
    figures = {"total_records": sum(counts.values()), **dict.fromkeys(WORDS.values(), 0)}
    for status, number in counts.items():
        figures[WORDS[status]] += number
    return figures
