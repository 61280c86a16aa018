"""The runner walks a procedure along its gates, and writes down what each said before the next is tried."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from app.system import System
from app.tasks.errors import TaskError
from app.transfer.archive import ArchiveRefused
from app.transfer.dumps import DumpFailed
from app.transfer.errors import Superseded, TransferError
from app.transfer.mover import Watcher
from app.transfer.procedure.finishing import release
from app.transfer.procedure.gates import Gate, Ground, Outcome
from app.transfer.procedure.phases import GATES, way_from
from app.transfer.procedure.plan import Phase
from app.transfer.procedure.records import Procedure, ProcedureRecords, State

BEAT_SECONDS = 3.0
LOOK_SECONDS = 0.2
RESUME = "see to it, then --resume; or --rollback"

log = structlog.get_logger(__name__)


class GateClosed(TransferError):
    """A gate did not open; the procedure is stopped there and can be resumed."""

    def __init__(self, phase: Phase, gate: str, outcome: Outcome) -> None:
        self.phase, self.gate, self.outcome = phase, gate, outcome
        super().__init__(f"{phase.value}, {gate}: {outcome.said}")


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom the runner tells: of each phase that begins, each gate that was tried, and how rows move."""

    phase: Callable[[Phase], None] = lambda phase: None
    gate: Callable[[Phase, str, Outcome], None] = lambda phase, gate, outcome: None
    moving: Watcher = lambda moving: None


class Runner:
    """Runs one procedure that `holder` holds, from its phase to its end."""

    def __init__(
        self, system: System, procedure: Procedure, *, holder: str, listener: Listener | None = None
    ) -> None:
        self._system = system
        self._records = ProcedureRecords(system.store.database)
        self._id, self._holder = procedure.procedure_id, holder
        self._listener = listener or Listener()
        self._phase = procedure.phase
        self._record: dict[str, Any] = deepcopy(dict(procedure.record))
        self._accepted = {*procedure.plan.choices.accepted, *self._record["facts"].get("accepted", ())}
        self._noted = time.monotonic()
        self._ground = Ground(
            system=system,
            plan=procedure.plan,
            facts=self._record["facts"],
            check=self._check,
            keep=self._save,
            watcher=self._listener.moving,
            folder=system.config.VAR_DIR / "procedures" / str(procedure.procedure_id),
            history=Path(procedure.plan.choices.history),
            subject=f"procedure {procedure.procedure_id}",
        )

    @property
    def procedure_id(self) -> int:
        return self._id

    def run(self) -> Procedure:
        """Walk to the end. Raises `GateClosed`, `Superseded` if it was aborted or taken over, and the
        database's errors; after all but `Superseded` it is recorded as stopped, and can be resumed."""
        try:
            with self._beating():
                for phase in way_from(self._phase):
                    self._walk(phase)
        except Superseded:
            raise
        except (TransferError, TaskError, ArchiveRefused, OSError, KeyboardInterrupt) as error:
            self._give_up(error)
            raise
        state = State.ROLLED_BACK if self._phase is Phase.ROLLBACK else State.COMPLETED
        self._records.end(self._id, state, holder=self._holder)
        return self._records.get(self._id)

    def _give_up(self, error: BaseException) -> None:
        with suppress(TaskError, Superseded):  # is the database away, the lease ends by itself
            release(self._ground)
            self._save()
            said = str(error) or type(error).__name__
            self._records.end(self._id, State.STOPPED, holder=self._holder, error=said)

    def _walk(self, phase: Phase) -> None:
        self._phase = phase
        began = {"began_at": _now(), "seconds": 0.0, "gates": {}}
        self._record["phases"].setdefault(phase.value, began)
        self._noted = time.monotonic()
        self._save()
        self._listener.phase(phase)
        log.info("procedure.phase", procedure=self._id, phase=phase.value)
        for gate in GATES[phase]:
            self._try(phase, gate)
        self._record["phases"][phase.value]["ended_at"] = _now()
        self._save()

    def _try(self, phase: Phase, gate: Gate) -> None:
        self._check()
        said = self._record["phases"][phase.value]["gates"]
        if gate.once and said.get(gate.name, {}).get("passed"):
            return
        outcome = self._opened(gate)
        acceptable = not outcome.passed and gate.acceptable
        accepted = acceptable and gate.name in self._accepted
        if accepted:
            outcome = Outcome(True, f"accepted though {outcome.said}")
        elif acceptable:
            outcome = replace(outcome, fix=f"{outcome.fix}; or --resume --accept {shlex.quote(gate.name)}")
        said[gate.name] = asdict(outcome) | {"at": _now(), "accepted": accepted}
        self._save()
        self._listener.gate(phase, gate.name, outcome)
        log.info("procedure.gate", procedure=self._id, gate=gate.name, passed=outcome.passed)
        if not outcome.passed:
            raise GateClosed(phase, gate.name, outcome)

    def _opened(self, gate: Gate) -> Outcome:
        try:
            return gate.open(self._ground)
        except Superseded:
            raise
        except (TransferError, TaskError, ArchiveRefused, DumpFailed, OSError) as error:
            return Outcome(False, str(error), RESUME)

    def _check(self) -> None:
        """Wait while it is paused. Raises `Superseded`."""
        while self._records.state(self._id, holder=self._holder) is State.PAUSED:
            time.sleep(LOOK_SECONDS)

    def _save(self) -> None:
        now = time.monotonic()
        found = self._record["phases"].get(self._phase.value)
        if found is not None:
            found["seconds"] += now - self._noted
            found["noted_at"] = _now()
        self._noted = now
        self._records.save(self._id, holder=self._holder, phase=self._phase, record=self._record)

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Keep the lease while a gate takes its time."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                with suppress(TaskError, TransferError):  # the next check tells
                    self._records.beat(self._id, holder=self._holder)

        beating = threading.Thread(target=beat, name="procedure-beat", daemon=True)
        beating.start()
        try:
            yield
        finally:
            over.set()
            beating.join()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
