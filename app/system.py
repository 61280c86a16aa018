"""The composition root: from a Config to the parts that work together.

Every entrance (web, workers, scripts, RQ) builds its parts here, so that they agree. Connects lazily.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.database_names import url_of
from app.handlers import settings as handler_settings
from app.tasks.database import Database
from app.tasks.errors import InvalidTask, RedisUnavailable, RoutingTaken, TaskError
from app.tasks.handlers import HandlerRegistry, load_handlers
from app.tasks.migrate import migrate
from app.tasks.model import PRIORITIES, Priority, Ticket, Track
from app.tasks.queue import TaskQueue
from app.tasks.recurring import declared_schedules
from app.tasks.schedule_requests import ScheduleRequest
from app.tasks.settings import CoreSettings
from app.tasks.store import Store
from app.tasks.store.registry import WorkerRow
from app.tasks.store.source_databases import SourceDatabases
from app.tasks.tickets import RQQueueManager, connect
from app.tasks.tickets.worker_registry import RQWorker
from config import Config

CLOCK_CHECK_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class System:
    """The wired parts of one process. `tickets` is None in database mode, `declared` are the code's
    schedules."""

    config: Config
    settings: CoreSettings
    handlers: HandlerRegistry
    store: Store
    tickets: RQQueueManager | None
    queue: TaskQueue
    declared: tuple[ScheduleRequest, ...] = ()

    def prepare(self) -> None:
        """Make ready to run: `prepare_tables`, then apply changed mode settings, create the pools that the
        code names, and bring the schedules to what it declares.

        Raises `DatabaseUnavailable`.
        """
        self.prepare_tables()
        _apply_mode(self)
        for pool in {handler.pool for handler in self.handlers.values() if handler.pool}:
            self.store.pools.open(pool)
        self.queue.schedules.sync(self.declared)

    def prepare_tables(self) -> None:
        """Make the folder of our files and bring the schema up to date. What runs beside us goes on as it is.

        Raises `DatabaseUnavailable`.
        """
        self.config.VAR_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
        migrate(self.store.database)

    def workers(self) -> list[WorkerRow]:
        """Who is alive: our own workers by their rows, and stock RQ workers of our queues by RQ's lists.

        Raises `DatabaseUnavailable`. While Redis is away nobody knows of stock workers.
        """
        rows = self.store.registry.workers()
        if self.tickets is None or not self.tickets.health.worth_a_try:
            return rows
        try:
            listed = self.tickets.workers.stock()
        except RedisUnavailable:
            return rows
        return rows + [_stock_row(worker, self.tickets.database_clock()) for worker in listed]

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        self.store.database.dispose()
        self.store.source_databases.dispose()
        if self.tickets is not None:
            self.tickets.close()


def build_system(config: Config) -> System:
    """Wire the parts. Raises `ConfigError` or `ValueError` for settings that cannot work."""
    handler_settings.configure(_handler_settings(config))
    handlers = load_handlers(config.TASK_MODULES)
    settings = core_settings(config)
    database = Database(
        config.DATABASE_URL, pool_size=config.DB_POOL_SIZE, max_overflow=config.DB_MAX_OVERFLOW
    )
    store = Store.over(
        database,
        user_concurrency=config.RQ_USER_CONCURRENCY,
        source_databases=SourceDatabases(lambda name: url_of(config, name)),
    )
    tickets = _tickets(config, settings, handlers, database) if config.RQ_ENABLED else None
    queue = TaskQueue(store, handlers, tickets, settings)
    return System(config, settings, handlers, store, tickets, queue, _declared(handlers, queue))


def _declared(handlers: HandlerRegistry, queue: TaskQueue) -> tuple[ScheduleRequest, ...]:
    """The schedules that the code declares. Raises `ValueError` for one that cannot run."""
    declared = declared_schedules(handlers)
    for request in declared:
        try:
            queue.schedules.check(request)
        except InvalidTask as error:
            raise ValueError(f"the schedule {request.name!r} in the code: {error}") from None
    return declared


def _stock_row(worker: RQWorker, now: float) -> WorkerRow:
    return WorkerRow(
        worker_id=worker.name,
        host=worker.host,
        pid=worker.pid,
        track=Track.REDIS.value,
        queues=",".join(worker.queues),
        state=worker.state,
        done=worker.done,
        started_at=worker.born_at,
        seen_at=worker.seen_at,
        idle_seconds=max(0.0, now - worker.seen_at.timestamp()),
    )


def core_settings(config: Config) -> CoreSettings:
    """The core's view of the settings."""
    of_priority = {
        Priority.URGENT: config.RQ_TIMEOUT_URGENT,
        Priority.HIGH: config.RQ_TIMEOUT_HIGH,
        Priority.NORMAL: config.RQ_TIMEOUT_NORMAL,
        Priority.LOW: config.RQ_TIMEOUT_LOW,
    }
    return CoreSettings(
        payload_limit_bytes=config.TASK_PAYLOAD_LIMIT_BYTES,
        active_tasks_per_user=config.MAX_ACTIVE_TASKS_PER_USER,
        queue_size_limit=config.QUEUE_SIZE_LIMIT,
        default_timeout_seconds=config.RQ_DEFAULT_TIMEOUT,
        priority_timeout_seconds={p: seconds for p, seconds in of_priority.items() if seconds},
        max_retries=config.RQ_MAX_RETRIES,
        retry_base_seconds=config.RQ_RETRY_BASE_SECONDS,
        retry_cap_seconds=config.RQ_RETRY_CAP_SECONDS,
        priority_fallback=Priority(config.PRIORITY_FALLBACK) if config.PRIORITY_FALLBACK else None,
        redis_percent=config.redis_percent,
        lease_seconds=config.RQ_LEASE_SECONDS,
        ticket_grace_seconds=config.RQ_TICKET_GRACE,
        user_concurrency=config.RQ_USER_CONCURRENCY,
        age_bonus_seconds=config.RQ_AGE_BONUS_SECONDS,
        fallback_enabled=config.RQ_FALLBACK_ENABLED,
        fallback_after_seconds=config.RQ_FALLBACK_TIMEOUT,
    )


def _handler_settings(config: Config) -> handler_settings.HandlerSettings:
    return handler_settings.HandlerSettings(
        describe_folders=config.DESCRIBE_FOLDERS,
        uploads_folder=config.VAR_DIR / "uploads",
        allow_private_addresses=config.HTTP_ALLOW_PRIVATE,
        ollama_url=config.OLLAMA_URL,
        ollama_model=config.OLLAMA_MODEL or handler_settings.DEFAULT_OLLAMA_MODEL,
    )


def _tickets(
    config: Config, settings: CoreSettings, handlers: HandlerRegistry, database: Database
) -> RQQueueManager:
    def time_limit(ticket: Ticket) -> int:
        handler = handlers.find(ticket.name)
        return settings.time_limit(handler, ticket.priority, ticket.timeout_seconds)

    return RQQueueManager(
        connect(config.RQ_REDIS_URL),
        connect_bell=lambda seconds: connect(config.RQ_REDIS_URL, answer_seconds=seconds),
        prefix=config.RQ_QUEUE_PREFIX,
        window=config.RQ_TICKET_WINDOW,
        time_limit=time_limit,
        database_clock=DatabaseClock(database),
    )


class DatabaseClock:
    """The database's time in epoch seconds, without a statement per call: an offset, measured each minute."""

    def __init__(self, database: Database, *, local: Callable[[], float] = time.time) -> None:
        self._database = database
        self._local = local
        self._offset = 0.0
        self._next_check = 0.0

    def __call__(self) -> float:
        now = self._local()
        if now >= self._next_check:
            self._next_check = now + CLOCK_CHECK_SECONDS
            try:
                self._offset = self._database.now().timestamp() - self._local()
            except TaskError:
                log.debug("database.clock_unread")
        return now + self._offset


def _apply_mode(system: System) -> None:
    """A mode setting that changed since the last start goes into the routing; an unchanged one leaves
    run-time switches alone. Beside a transfer it waits for a start after that, unless Redis is out of use:
    then nothing but the database serves tasks."""
    store, percent = system.store, system.config.redis_percent
    store.routing.ensure(redis_percent=percent)
    now = f"{system.config.mode}:{percent}"
    before = store.registry.recall("mode settings")
    if before == now:
        return
    if before is not None:
        change = store.routing.change if system.tickets is None else store.routing.change_free
        try:
            change(PRIORITIES, redis_percent=percent, fallback=False)
        except RoutingTaken as error:
            log.warning("mode.left_to_transfer", transfer=error.transfer_id, before=before, now=now)
            return
        log.info("mode.changed_by_settings", before=before, now=now)
    store.registry.remember("mode settings", now)
