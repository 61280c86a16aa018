"""Memory over the time of a move: sampled, printed as a few lines, and drawn as an SVG."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.plot import STYLE

EVERY_SECONDS = 0.25
WIDTH, HEIGHT = 760, 280
LEFT, RIGHT, TOP, BOTTOM = 60, 110, 50, 40
LINES = ("ours", "peer", "beside")  # the classes of the curves


@dataclass(frozen=True, slots=True)
class Sample:
    """`moved` rows after so many seconds, and the resident megabytes of each process."""

    seconds: float
    moved: int
    megabytes: Mapping[str, float]


class Curve:
    """The memory of processes inside the block. `moved` tells how far the move is."""

    def __init__(self, processes: Mapping[str, int], moved: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._processes, self._moved = dict(processes), moved
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Curve:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def peak(self, name: str) -> float:
        """The most megabytes of a process."""
        return max(sample.megabytes[name] for sample in self.samples)

    def as_lines(self, count: int = 12) -> list[str]:
        """Some samples, evenly, for a terminal."""
        step = max(1, len(self.samples) // count)
        return [
            f"{sample.seconds:7.1f} s {sample.moved:>10,} rows  "
            + "  ".join(f"{name} {value:,.0f} MB" for name, value in sample.megabytes.items())
            for sample in [*self.samples[::step], self.samples[-1]]
        ]

    def _watch(self) -> None:
        self._sample()
        while not self._over.wait(EVERY_SECONDS):
            self._sample()

    def _sample(self) -> None:
        sizes = {name: resident_megabytes(pid) for name, pid in self._processes.items()}
        self.samples.append(Sample(round(time.monotonic() - self._began, 2), self._moved(), sizes))


def resident_megabytes(pid: int) -> float:
    """Of one process, shared pages included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def drawn(samples: Sequence[Sample], title: str) -> str:
    """The curves as an SVG that follows the reader's light or dark mode."""
    longest = max(sample.seconds for sample in samples)
    most = max(max(sample.megabytes.values()) for sample in samples) * 1.1

    def x(seconds: float) -> float:
        return LEFT + seconds / longest * (WIDTH - LEFT - RIGHT)

    def y(megabytes: float) -> float:
        return HEIGHT - BOTTOM - megabytes / most * (HEIGHT - TOP - BOTTOM)

    style = STYLE + "".join(f" path.{name} {{ fill: none; stroke-width: 2 }}" for name in LINES)
    style += " path.ours { stroke: #2f7d6b } path.peer { stroke: #98a1ad } path.beside { stroke: #6fae9f }"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{title}</title><style>{style}</style>",
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="28">{title}</text>',
    ]
    for name, line in zip(samples[0].megabytes, LINES, strict=False):
        points = " L ".join(f"{x(s.seconds):.1f} {y(s.megabytes[name]):.1f}" for s in samples)
        last = samples[-1]
        parts.append(f'<path class="{line}" d="M {points}"/>')
        parts.append(
            f'<text x="{x(last.seconds) + 6:.0f}" y="{y(last.megabytes[name]) + 4:.0f}">'
            f"{name} {last.megabytes[name]:,.0f} MB</text>"
        )
    parts.append(f'<text class="quiet" x="{LEFT}" y="{HEIGHT - 14}">0 s</text>')
    end = f'x="{x(longest):.0f}" y="{HEIGHT - 14}" text-anchor="end"'
    parts.append(f'<text class="quiet" {end}>{longest:,.0f} s</text>')
    parts.append(f'<text class="quiet" x="8" y="{y(most / 1.1):.0f}">{most / 1.1:,.0f} MB</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
