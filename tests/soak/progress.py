"""One live line: what runs, how fast, how long still, and whether anything was lost so far."""

from __future__ import annotations

import sys
import threading

from app.tasks.runner import boot_clock
from tests.soak.results import Chapter

QUIET_SECONDS = 20.0  # between two lines where nobody watches a terminal


class Progress:
    """Shared by all lanes. `minutes` bounds the run: past them no new round begins."""

    def __init__(self, *, minutes: float | None, quiet: bool = False) -> None:
        self._began = boot_clock()
        self._ends = None if minutes is None else self._began + minutes * 60
        self._quiet = quiet
        self._lock = threading.Lock()
        self.stop = threading.Event()
        self._begin_chapter(Chapter("", ""), 0)
        self._last_line = 0.0

    @property
    def seconds(self) -> float:
        return boot_clock() - self._began

    def begin(self, chapter: Chapter, total: int) -> None:
        self._begin_chapter(chapter, total)
        self._say(force=True)

    def _begin_chapter(self, chapter: Chapter, total: int) -> None:
        self._chapter, self._total, self._done, self._since = chapter, total, 0, boot_clock()

    def may_go_on(self) -> bool:
        """False once the time is up, or a lane has failed."""
        return not self.stop.is_set() and (self._ends is None or boot_clock() < self._ends)

    def step(self) -> None:
        with self._lock:
            self._done += 1
        self._say()

    def end(self) -> None:
        self._say(force=True)
        if sys.stdout.isatty() and not self._quiet:
            print()

    def _say(self, *, force: bool = False) -> None:
        if self._quiet:
            return
        now = boot_clock()
        if sys.stdout.isatty():
            print(f"\r\x1b[K{self._line(now)}", end="", flush=True)
        elif force or now - self._last_line >= QUIET_SECONDS:
            self._last_line = now
            print(self._line(now), flush=True)

    def _line(self, now: float) -> str:
        tallies = list(self._chapter.tallies.values())
        bad = sum(t.lost + t.doubled + t.wrong for t in tallies if t.ours)
        parts = [f"{self._chapter.name} {self._done}/{self._total}", f"{bad} broken promises"]
        spent = now - self._since
        if self._done and spent > 0:
            rate = self._done / spent
            left = (self._total - self._done) / rate
            if self._ends is not None:
                left = min(left, max(0.0, self._ends - now))
            parts += [f"{rate:.1f} rounds/s", f"{left / 60:.1f} min left"]
        return ", ".join(parts)
