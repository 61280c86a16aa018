"""What a worker dies of, as its parent knows it, in a word, a number and a sentence."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import IntEnum

# Signals that somebody else sends: the task that was running is not to blame.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})


class Cause(IntEnum):
    """Why. The number beside it is seconds, megabytes, a signal or an exit code."""

    TIME_LIMIT = 1
    MEMORY = 2
    CANCEL = 3
    SIGNAL = 4
    EXIT = 5
    STOP = 6


@dataclass(frozen=True, slots=True)
class CauseOfDeath:
    kind: Cause
    number: int = 0

    @classmethod
    def of_exit(cls, code: int) -> CauseOfDeath:
        """From `os.waitstatus_to_exitcode`: negative is a signal."""
        return cls(Cause.SIGNAL, -code) if code < 0 else cls(Cause.EXIT, code)

    @property
    def blames_the_task(self) -> bool:
        """True if the running task did it: then its retry waits as after a failure."""
        if self.kind is Cause.SIGNAL:
            return self.number not in _FROM_OUTSIDE
        return self.kind is not Cause.STOP

    def sentence(self, who: str = "its worker") -> str:
        """For the task's `error`: what its submitter reads. `who` has died."""
        match self.kind:
            case Cause.TIME_LIMIT:
                return f"ran longer than its limit of {self.number} s and was killed"
            case Cause.MEMORY:
                return f"used more than {self.number} MB of memory"
            case Cause.CANCEL:
                return "did not stop by itself and was killed"
            case Cause.SIGNAL:
                return f"{who} was killed by {_signal_name(self.number)}"
            case Cause.EXIT:
                return f"{who} ended with exit code {self.number}"
            case Cause.STOP:
                return f"{who} was stopped and had no more than {self.number} s to finish"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
