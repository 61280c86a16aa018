"""The folder command's parts without a server: files found, lines kept, patience and order."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.handlers.describe_folder.api import (
    Answer,
    NotReachable,
    ServerRefused,
    Submission,
    TaskApi,
    TaskState,
    TryLater,
)
from app.handlers.describe_folder.journal import Journal, OutputUnusable, journal_in
from app.handlers.describe_folder.pictures import Picture, find_pictures
from app.handlers.describe_folder.run import WINDOW, Clock, FolderNotAllowed, FolderRun

RESULT = {"alt_text": "A picture.", "engine": "facts"}


class FakeTime(Clock):
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        super().__init__(now=lambda: self.seconds, sleep=self._pass)

    def _pass(self, seconds: float) -> None:
        self.seconds += seconds


class FakeApi(TaskApi):
    """A server in memory: `outcome` decides what a task's state is each time it is asked for."""

    def __init__(self, outcome: Callable[[str], TaskState] | None = None) -> None:
        # Not the real one's __init__: a client with TLS costs 20 ms.
        self.tasks: dict[str, Submission] = {}
        self.by_key: dict[str, str] = {}
        self.batches: list[int] = []
        self.troubles: list[Exception | None] = []
        self.refusals: dict[str, list[Answer]] = {}
        self.largest_window = 0
        self.ended: set[str] = set()
        self.outcome = outcome or self.completed

    def completed(self, task_id: str) -> TaskState:
        return TaskState(task_id, "COMPLETED", RESULT, None)

    def submit(self, submissions: Sequence[Submission]) -> list[Answer]:
        self._maybe_fail()
        self.batches.append(len(submissions))
        answers = [self._accept(submission) for submission in submissions]
        self.largest_window = max(self.largest_window, len(self.tasks) - len(self.ended))
        return answers

    def _accept(self, submission: Submission) -> Answer:
        refusals = self.refusals.get(submission.path)
        if refusals:
            return refusals.pop(0)
        task_id = self.by_key.setdefault(submission.idempotency_key, str(len(self.by_key) + 1))
        self.tasks[task_id] = submission
        return Answer(task_id)

    def states(self, task_ids: Sequence[str]) -> dict[str, TaskState]:
        self._maybe_fail()
        states = {task_id: self.outcome(task_id) for task_id in task_ids}
        self.ended |= {task_id for task_id, state in states.items() if state.ended}
        return states

    def _maybe_fail(self) -> None:
        trouble = self.troubles.pop(0) if self.troubles else None
        if trouble is not None:
            raise trouble


class Notes:
    def __init__(self) -> None:
        self.done = 0
        self.sentences: list[str] = []

    def advance(self) -> None:
        self.done += 1

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)


class Case:
    """A run with everything around it replaced."""

    def __init__(self, api: FakeApi, journal: Journal | None = None) -> None:
        self.api = api
        self.lines: list[dict[str, Any]] = []
        self.journal = journal or Journal(lambda line: self.lines.append(json.loads(line)))
        self.screen = Notes()
        self.time = FakeTime()
        self.run = FolderRun(api, self.journal, self.screen, priority="low", salt="s", clock=self.time)


def pictures(count: int) -> list[Picture]:
    return [Picture(f"/p/{number:04}.jpg", 100, 1) for number in range(count)]


def test_pictures_are_found_below_the_folder_in_order_and_others_are_counted(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.webp", "note.txt", "b/clip.mp4", "z/deep/er/3.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_pictures(tmp_path)
    names = [os.path.relpath(picture.path, tmp_path) for picture in found.pictures]
    assert names == ["a.webp", "b/1.png", "b/2.JPG", "z/deep/er/3.tiff"]
    assert (found.others, found.unreadable) == (2, [])


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert len(find_pictures(tmp_path).pictures) == 1


def test_a_name_that_json_cannot_hold_and_a_dangling_link_are_reported(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb"):
        pass
    found = find_pictures(tmp_path)
    assert found.pictures == []
    assert [Path(place).name for place in found.unreadable] == ["?.png", "gone.png"]


def test_a_picture_keeps_its_key_until_it_changes_or_fails() -> None:
    picture = Picture("/p/a.jpg", 100, 1)
    keys = {
        picture.idempotency_key("s", 0),
        picture.idempotency_key("s", 1),
        picture.idempotency_key("other", 0),
        Picture("/p/a.jpg", 101, 1).idempotency_key("s", 0),
        Picture("/p/a.jpg", 100, 2).idempotency_key("s", 0),
        Picture("/p/b.jpg", 100, 1).idempotency_key("s", 0),
    }
    assert len(keys) == 6
    assert picture.idempotency_key("s", 0) in keys


def test_a_journal_knows_what_the_earlier_run_wrote(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    with journal_in(file) as journal:
        journal.record_description("/a", "1", alt_text="Ä.", engine="facts")
        journal.record_failure("/b", "2", error="no")
        journal.record_failure("/b", None, error="no again")
    with journal_in(file) as journal:
        assert journal.described == {"/a"}
        assert journal.failures == Counter({"/b": 2})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"path": "/a", "alt_text": "Ä.", "engine": "facts", "task_id": "1"},
        {"path": "/b", "error": "no", "task_id": "2"},
        {"path": "/b", "error": "no again", "task_id": None},
    ]


def test_a_line_cut_off_by_a_kill_is_ignored_and_spoils_no_later_line(tmp_path: Path) -> None:
    file = tmp_path / "out.jsonl"
    file.write_bytes(b'{"path": "/a", "alt_text": "x"}\n[1]\n{"path": "/b", "alt_te\xff')
    with journal_in(file) as journal:
        assert journal.described == {"/a"}
        journal.record_description("/b", "2", alt_text="y", engine="facts")
    with journal_in(file) as journal:
        assert journal.described == {"/a", "/b"}


def test_two_runs_cannot_write_the_same_file(tmp_path: Path) -> None:
    with (
        journal_in(tmp_path / "out"),
        pytest.raises(OutputUnusable, match="Another run"),
        journal_in(tmp_path / "out"),
    ):
        raise AssertionError("both have it")


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputUnusable, match="missing/out cannot be written"),
        journal_in(tmp_path / "missing/out"),
    ):
        raise AssertionError("it was opened")


def test_every_picture_gets_one_line() -> None:
    case = Case(FakeApi())
    case.run.run(pictures(1200))
    assert [line["path"] for line in case.lines] == [picture.path for picture in pictures(1200)]
    assert (case.run.described, case.run.failed, case.screen.done) == (1200, 0, 1200)
    assert {submission.priority for submission in case.api.tasks.values()} == {"low"}


def test_the_first_picture_goes_alone_and_never_more_than_the_window_is_under_way() -> None:
    case = Case(FakeApi())
    case.run.run(pictures(1500))
    assert case.api.batches[0] == 1
    assert case.api.largest_window <= WINDOW


def test_a_first_picture_that_has_to_wait_does_not_hold_up_the_others() -> None:
    api = FakeApi()
    case = Case(api)
    # Nothing ends before the others were submitted too.
    api.outcome = lambda i: (
        api.completed(i) if len(api.tasks) == 5 else TaskState(i, "DISPATCHED", None, None)
    )
    case.run.run(pictures(5))
    assert api.batches == [1, 4]


def test_lines_come_in_the_order_of_completion() -> None:
    api = FakeApi()
    case = Case(api)
    asked: Counter[str] = Counter()

    def outcome(task_id: str) -> TaskState:
        asked[task_id] += 1
        slow = task_id == "2" and asked[task_id] < 5
        return TaskState(task_id, "PROCESSING", None, None) if slow else api.completed(task_id)

    api.outcome = outcome
    case.run.run(pictures(4))
    assert [line["task_id"] for line in case.lines] == ["1", "3", "4", "2"]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (TaskState("1", "FAILED", None, "no picture"), "no picture"),
        (TaskState("1", "CANCELLED", None, None), "the task is CANCELLED"),
        (TaskState("1", "COMPLETED", None, None), "the server does not keep this result any more"),
    ],
)
def test_a_task_without_an_alt_text_leaves_its_reason(state: TaskState, error: str) -> None:
    case = Case(FakeApi(lambda _: state))
    case.run.run(pictures(1))
    assert case.lines == [{"path": "/p/0000.jpg", "error": error, "task_id": "1"}]
    assert case.run.failed == 1


def test_a_task_that_the_server_lost_is_a_failure() -> None:
    api = FakeApi()
    api.states = lambda task_ids: {}  # type: ignore[method-assign]
    case = Case(api)
    case.run.run(pictures(1))
    assert "does not know this task" in case.lines[0]["error"]


def test_a_refused_submission_is_a_failure_and_a_postponed_one_comes_again() -> None:
    api = FakeApi()
    first, second, third = pictures(3)
    api.refusals = {
        second.path: [Answer(None, "payload.path: is wrong")],
        third.path: [Answer(None, "the user is busy", later=True)] * 3,
    }
    case = Case(api)
    case.run.run([first, second, third])
    assert [("error" in line, line["path"]) for line in case.lines] == [
        (False, first.path),
        (True, second.path),
        (False, third.path),
    ]
    assert case.time.seconds >= 1003


def test_a_failure_that_a_stopped_run_left_unwritten_is_tried_again() -> None:
    api = FakeApi()
    (picture,) = pictures(1)
    api.refusals = {picture.path: [Answer("9", failed_before=True)]}
    case = Case(api)
    case.run.run([picture])
    assert [line["task_id"] for line in case.lines] == ["1"]
    assert api.tasks["1"].idempotency_key == picture.idempotency_key("s", 1)


def test_a_second_run_finds_the_tasks_of_the_first() -> None:
    api = FakeApi()
    Case(api).run.run(pictures(3))
    Case(api).run.run(pictures(3))
    assert len(api.tasks) == 3


def test_a_folder_that_the_server_may_not_read_ends_the_run_at_the_first_picture() -> None:
    error = "path: this place is not below a folder of the setting DESCRIBE_FOLDERS"
    case = Case(FakeApi(lambda i: TaskState(i, "FAILED", None, error)))
    with pytest.raises(FolderNotAllowed):
        case.run.run(pictures(50))
    assert len(case.lines) == len(case.api.tasks) == 1


def test_a_server_that_was_never_there_ends_the_run_at_once() -> None:
    api = FakeApi()
    api.troubles = [NotReachable("nobody")]
    case = Case(api)
    with pytest.raises(NotReachable):
        case.run.run(pictures(3))
    assert case.time.seconds == 1000


def test_a_server_that_comes_back_in_time_is_waited_for() -> None:
    api = FakeApi()
    api.troubles = [None, *[NotReachable("gone")] * 20]
    case = Case(api)
    case.run.run(pictures(3))
    assert case.run.described == 3
    assert case.screen.sentences[0].startswith("gone Trying again")


def test_a_server_that_stays_away_ends_the_run_after_its_patience() -> None:
    api = FakeApi()
    api.troubles = [None, *[NotReachable("gone")] * 1000]
    case = Case(api)
    with pytest.raises(NotReachable):
        case.run.run(pictures(3))
    assert 30 <= case.time.seconds - 1000 <= 40


def test_a_server_that_says_later_is_asked_again_after_the_time_it_names() -> None:
    api = FakeApi()
    api.troubles = [TryLater("submission is paused", 40.0)]
    case = Case(api)
    case.run.run(pictures(2))
    assert case.run.described == 2
    assert case.time.seconds >= 1040
    assert "paused" in case.screen.sentences[0]


def test_a_server_that_refuses_ends_the_run() -> None:
    api = FakeApi()
    api.troubles = [ServerRefused("no token")]
    with pytest.raises(ServerRefused):
        Case(api).run.run(pictures(2))
