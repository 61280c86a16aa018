"""The baseline: what is recorded of every row before a move, so that afterwards each can be held against it.

One line per row, by ascending id, in stretches that open with their own count and sum of digests: a
stretch that still adds up needs no look at its lines. Memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.engine import Connection

from app.tasks.database import Database
from app.transfer.archive import Archive, ArchiveRefused, ArchiveWriter
from app.transfer.digests import DigestSql, summed
from app.transfer.progress import Progress

KIND = "twintrack-baseline"
ROWS = "rows"
STRETCH_ROWS = 10_000
_HEAD = "="


class Kept(NamedTuple):
    """What a baseline says of one row."""

    task_id: int
    rank: int
    status: str
    epoch: int
    attempt: int
    digest: str


@dataclass(slots=True)
class Stretch:
    """Consecutive rows: those up to the id `last`, how many, the sum of their digests, and both of those that
    had been COMPLETED; and one line for each, unless only the heads were read."""

    last: int
    count: int
    row_sum: int
    completed: int
    completed_sum: int
    lines: list[str]

    def rows(self) -> dict[int, Kept]:
        return {kept.task_id: kept for kept in map(_parsed, self.lines)}


def record(database: Database, folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Record every row that is there. Returns the manifest's facts.

    Raises `DatabaseUnavailable`, `FileExistsError`. Rows that come while it is written are not in it, or
    are: each is as it was when its stretch was read.
    """
    with ArchiveWriter(folder, KIND) as archive:
        writer = _Recorder(database, progress)
        archive.write_lines(ROWS, writer.lines())
        archive.facts = {
            "taken_at": database.now().isoformat(),
            "rows": writer.rows,
            "last_id": writer.last,
            "statuses": writer.statuses,
        }
    return archive.facts


class _Recorder:
    def __init__(self, database: Database, progress: Progress | None) -> None:
        self._database = database
        self._progress = progress
        self._sql = DigestSql(database.kind)
        self.rows, self.last = 0, 0
        self.statuses: dict[str, int] = {}

    def lines(self) -> Iterator[str]:
        while rows := self._read(self.last):
            self.last = int(rows[-1][0])
            sums = [summed(_digest_of(row)) for row in rows]
            ended = [each for each, row in zip(sums, rows, strict=True) if row.status == "COMPLETED"]
            yield f"{_HEAD} {self.last} {len(rows)} {sum(sums)} {len(ended)} {sum(ended)}"
            for row in rows:
                yield " ".join(map(str, row))
                self.statuses[row[2]] = self.statuses.get(row[2], 0) + 1
            self.rows += len(rows)
            if self._progress:
                self._progress.step(len(rows))

    def _read(self, after: int) -> Sequence[Any]:
        query = text(
            f"SELECT id, priority, status, epoch, attempt, {self._sql.row()} AS digest"  # noqa: S608
            " FROM tasks WHERE id > :after ORDER BY id LIMIT :rows"
        )

        def work(on: Connection) -> Sequence[Any]:
            self._sql.prepare(on)
            return on.execute(query, {"after": after, "rows": STRETCH_ROWS}).all()

        return self._database.read(work)


def _digest_of(row: Any) -> str:
    if row.digest is None:
        raise ArchiveRefused(f"the database could make no digest of row {row.id}: see max_allowed_packet")
    return str(row.digest)


class Baseline:
    """A recorded baseline. Raises `ArchiveRefused` if it is not as it was written."""

    def __init__(self, folder: Path) -> None:
        self._archive = Archive(folder, KIND)
        self._archive.check()
        self.rows: int = self._archive.facts["rows"]
        self.last_id: int = self._archive.facts["last_id"]
        self.taken_at: str = self._archive.facts["taken_at"]
        self.statuses: dict[str, int] = self._archive.facts["statuses"]

    def heads(self) -> Iterator[Stretch]:
        """The stretches without their lines, in ascending order of ids."""
        for line in self._archive.lines(ROWS):
            if line.startswith(_HEAD):
                yield _opened(line)

    def stretches(self, lasts: Collection[int]) -> Iterator[Stretch]:
        """Those stretches that end at these ids, with their lines."""
        stretch = None
        for line in self._archive.lines(ROWS):
            if line.startswith(_HEAD):
                if stretch is not None:
                    yield stretch
                head = _opened(line)
                stretch = head if head.last in lasts else None
            elif stretch is not None:
                stretch.lines.append(line)
        if stretch is not None:
            yield stretch


def _opened(head: str) -> Stretch:
    _, *numbers = head.split(" ")
    last, count, row_sum, completed, completed_sum = map(int, numbers)
    return Stretch(last, count, row_sum, completed, completed_sum, [])


def _parsed(line: str) -> Kept:
    task_id, rank, status, epoch, attempt, digest = line.split(" ")
    return Kept(int(task_id), int(rank), status, int(epoch), int(attempt), digest)
