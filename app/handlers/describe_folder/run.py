"""One run over the pictures of a folder: submit, wait, write a line for each in the order they end.

At most `WINDOW` tasks are under way at once: a stopped run leaves little behind, and a picture's key
makes the next run find its task again instead of doubling it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from app.handlers.describe_folder.api import (
    BATCH_LIMIT,
    IDS_PER_CALL,
    Answer,
    NotReachable,
    Submission,
    TaskApi,
    TaskState,
    TryLater,
)
from app.handlers.describe_folder.journal import Journal
from app.handlers.describe_folder.pictures import Picture
from app.handlers.describe_folder.screen import Screen

WINDOW = 500
FOLDER_SETTING = "DESCRIBE_FOLDERS"
# The first picture goes alone, for this long at most: it tells whether the server may read the folder.
FIRST_ALONE_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
SHORTEST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0


class FolderNotAllowed(Exception):
    """The server refuses the first picture because its folder is not among the allowed ones."""


@dataclass(slots=True)
class Clock:
    """The two things that a test replaces."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class FolderRun:
    """`described` and `failed` count what this run has done so far."""

    def __init__(
        self,
        api: TaskApi,
        journal: Journal,
        screen: Screen,
        *,
        priority: str,
        salt: str,
        clock: Clock | None = None,
    ) -> None:
        self.described = 0
        self.failed = 0
        self._api = api
        self._journal = journal
        self._screen = screen
        self._priority = priority
        self._salt = salt
        self._clock = clock or Clock()
        self._waiting: deque[Picture] = deque()
        self._under_way: dict[str, Picture] = {}
        self._submit_after = 0.0
        self._heard_at: float | None = None
        self._alone_until: float | None = None
        self._stopping = False

    def stop(self) -> None:
        """Let `run` return after the step that it is in; what it has under way stays with the server."""
        self._stopping = True

    def run(self, pictures: Iterable[Picture]) -> None:
        """Describe the pictures; returns when each has its line, or soon after `stop`.

        Raises `FolderNotAllowed`, or a `ServerTrouble` when the server is not there, goes away for more
        than 30 seconds, or refuses the whole request. What was done before stays done.
        """
        self._waiting.extend(pictures)
        pause = SHORTEST_PAUSE_SECONDS
        while (self._waiting or self._under_way) and not self._stopping:
            moved = self._patiently(self._submit) or self._patiently(self._collect)
            pause = SHORTEST_PAUSE_SECONDS if moved else min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            if not moved:
                self._clock.sleep(pause)

    def _patiently(self, step: Callable[[], bool]) -> bool:
        """Do one step; a server that was reached once is given time to come back."""
        try:
            return step()
        except TryLater as trouble:
            self._submit_after = self._clock.now() + trouble.wait_seconds
            self._screen.note(f"Waiting for the server: {trouble}")
        except NotReachable as trouble:
            now = self._clock.now()
            if self._heard_at is None or now - self._heard_at >= PATIENCE_SECONDS:
                raise
            self._screen.note(f"{trouble} Trying again for {PATIENCE_SECONDS:g} seconds.")
        return False

    def _submit(self) -> bool:
        room = self._room()
        if not self._waiting or not room or self._clock.now() < self._submit_after:
            return False
        batch = [self._waiting[position] for position in range(min(room, len(self._waiting)))]
        answers = self._api.submit([self._submission(picture) for picture in batch])
        self._heard_at = self._clock.now()
        if self._alone_until is None:
            self._alone_until = self._heard_at + FIRST_ALONE_SECONDS
        for picture, answer in zip(batch, answers, strict=True):
            self._waiting.popleft()
            self._take(picture, answer)
        return any(answer.task_id is not None for answer in answers)

    def _take(self, picture: Picture, answer: Answer) -> None:
        if answer.failed_before:
            # Of a run that was stopped before it could write the line: this run tries again.
            self._journal.failures[picture.path] += 1
            self._waiting.append(picture)
        elif answer.task_id is not None:
            self._under_way[answer.task_id] = picture
        elif answer.later:
            self._waiting.append(picture)
            self._submit_after = self._clock.now() + LONGEST_PAUSE_SECONDS
        else:
            self._fail(picture, None, answer.refusal)

    def _room(self) -> int:
        first_is_open = self.described + self.failed == 0
        alone = self._alone_until is None or self._clock.now() < self._alone_until
        window = 1 if first_is_open and alone else WINDOW
        return min(BATCH_LIMIT, window - len(self._under_way))

    def _submission(self, picture: Picture) -> Submission:
        key = picture.idempotency_key(self._salt, self._journal.failures[picture.path])
        return Submission(picture.path, self._priority, key)

    def _collect(self) -> bool:
        open_ids = list(self._under_way)
        ended = 0
        for start in range(0, len(open_ids), IDS_PER_CALL):
            asked = open_ids[start : start + IDS_PER_CALL]
            states = self._api.states(asked)
            self._heard_at = self._clock.now()
            for task_id in asked:
                ended += self._look_at(task_id, states.get(task_id))
        return ended > 0

    def _look_at(self, task_id: str, state: TaskState | None) -> bool:
        if state is not None and not state.ended:
            return False
        picture = self._under_way.pop(task_id)
        if state is None:
            self._fail(picture, task_id, "the server does not know this task any more")
        elif state.status != "COMPLETED":
            self._fail(picture, task_id, state.error or f"the task is {state.status}")
        else:
            self._finish(picture, state)
        return True

    def _finish(self, picture: Picture, state: TaskState) -> None:
        found = state.description or {}
        alt_text, engine = found.get("alt_text"), found.get("engine")
        if not isinstance(alt_text, str):
            self._fail(picture, state.task_id, "the server does not keep this result any more")
            return
        self._journal.record_description(
            picture.path, state.task_id, alt_text=alt_text, engine=str(engine or "unknown")
        )
        self.described += 1
        self._screen.advance()

    def _fail(self, picture: Picture, task_id: str | None, error: str) -> None:
        alone = self.described + self.failed == 0 and not self._under_way
        self._journal.record_failure(picture.path, task_id, error=error)
        self.failed += 1
        self._screen.advance()
        if FOLDER_SETTING in error:
            if alone:
                raise FolderNotAllowed(error)
            self._screen.note(f"Some pictures are not below a folder of the server's {FOLDER_SETTING}.")
