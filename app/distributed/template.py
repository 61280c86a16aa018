"""A flow behind one entry point: its records one by one in this process, or through the queue by many."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from app.distributed.flow_runs import (
    BusinessLogic,
    FlowRunner,
    RecordContext,
    Tally,
    called,
    log_run,
    own_processor,
)
from app.distributed.new_records import Key, parts_of
from app.distributed.processor import DistributedProcessor
from app.tasks.handlers import to_json
from app.tasks.sentences import sentence

ADDED_AT_A_TIME = 5_000

Records = Callable[[], Iterable[Mapping[str, Any]]]


def share_of(key: str) -> int:
    """A record's place in a percentage share, 0 to 99, by its key alone."""
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:4]) % 100


class FlowTemplate:
    """A flow with its business logic and the records that it reads.

    `records()` gives them anew each time, as `add_records_to_queue` takes them; `key` tells them apart. The
    logic is the same in both modes, and so is what it returns, writes and raises."""

    def __init__(
        self,
        flow: str,
        logic: BusinessLogic,
        records: Records,
        *,
        key: Key,
        processor: DistributedProcessor | None = None,
    ) -> None:
        self.flow = flow
        self._logic = logic
        self._records = records
        self._key = key
        self._given = processor

    @property
    def processor(self) -> DistributedProcessor:
        """The given one, or this process's own."""
        return self._given or own_processor()

    def populate(self) -> int:
        """Bring the records to the queue that it has not had yet. Returns how many. All of them, or the share
        that the flow is set to (`distributed_rollout_percent`), always the same ones."""
        percent = int(self._setting("distributed_rollout_percent"))
        added = 0
        for chunk in _chunks(self._shared(percent, queued=True)):
            added += self.processor.add_records_to_queue(self.flow, chunk, key=self._key)
        return added

    def run(
        self,
        *,
        use_distributed_processing: bool | None = None,
        batch_size: int | None = None,
        populate_queue: bool = False,
        stopped: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """Process what there is, and say what was done: the keys of `distributed_processing_flow`, `mode`
        and `records_added`.

        The flag and the batch size come from the flow's settings unless they are given. In standard mode
        every record is processed here. In distributed mode the queue is worked off, after it was populated
        if that is asked for; records beyond the share of a rollout are then processed here."""
        distributed = use_distributed_processing
        if distributed is None:
            distributed = bool(self._setting("use_distributed_processing"))
        size = batch_size if batch_size is not None else int(self._setting("distributed_batch_size"))
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, not {size}")
        tally, added = Tally(), 0
        if not distributed:
            self._standard(self._records(), tally, stopped)
        else:
            if populate_queue:
                added = self.populate()
                percent = int(self._setting("distributed_rollout_percent"))
                self._standard(self._shared(percent, queued=False), tally, stopped)
            FlowRunner(self.processor, self.flow, self._logic, stopped=stopped).work_off(size, tally)
        mode = "distributed" if distributed else "standard"
        summary = tally.summary(self.flow, size, self.processor.instance_id)
        return summary | {"mode": mode, "records_added": added}

    def _setting(self, key: str) -> Any:
        return self.processor.settings_of(self.flow).get_variable(key)

    def _shared(self, percent: int, *, queued: bool) -> Iterator[Mapping[str, Any]]:
        for record in self._records():
            whole = percent >= 100
            if (whole or share_of(parts_of(record, self._key)[1] or "") < percent) is queued:
                yield record

    # --- standard mode ----------------------------------------------------------------------------------

    def _standard(
        self, records: Iterable[Mapping[str, Any]], tally: Tally, stopped: Callable[[], bool]
    ) -> None:
        started, own = datetime.now(UTC), Tally()
        for number, record in enumerate(records):
            if stopped():
                break
            own.claimed += 1
            payload, key = parts_of(record, self._key)
            self._process(payload, key or str(number), own)
        tally.add_up(own)
        if own.claimed:
            log_run(self.processor, self.flow, "standard", own, started)

    def _process(self, payload: Any, key: str, tally: Tally) -> None:
        """One record; what it writes through its connection commits with its success."""
        with _LazyConnection(self.processor) as lazy:
            context = RecordContext(key, self.flow, 0, self.processor.source_database, lazy.connect)
            # the broad except of this mode: business logic may raise anything
            try:
                to_json(called(self._logic, payload, context))
                lazy.commit()
            except Exception as error:  # noqa: BLE001
                tally.fail(key, f"{type(error).__name__}: {sentence(error)}")
                return
        tally.completed += 1


class _LazyConnection:
    """A transaction on the queue's database that begins when somebody asks for it."""

    def __init__(self, processor: DistributedProcessor) -> None:
        self._engine = processor.system.store.database.engine
        self._connection: Connection | None = None

    def __enter__(self) -> _LazyConnection:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()  # rolls back what is not committed

    def connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._connection.begin()
        return self._connection

    def commit(self) -> None:
        if self._connection is not None:
            self._connection.commit()


def _chunks(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    for record in records:
        chunk.append(record)
        if len(chunk) >= ADDED_AT_A_TIME:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
