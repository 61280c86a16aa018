"""Which files a payload can reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.handlers.folders import AllowedFile, locate, open_file
from app.tasks.handlers import DoNotRetry

OUTSIDE = "DESCRIBE_FOLDERS"


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return folder


def content(path: str | Path, *folders: Path) -> bytes:
    with os.fdopen(open_file(locate(str(path), folders)), "rb") as file:
        return file.read()


def test_a_file_below_an_allowed_folder_is_opened(allowed: Path) -> None:
    assert content(allowed / "below" / "file", allowed) == b"inside"


def test_a_relative_path_is_found_in_the_folder_that_has_it(allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert content("below/file", tmp_path / "other", allowed) == b"inside"


@pytest.mark.parametrize(
    "path", ["../secret", "below/../../secret", "/etc/passwd", ".", "", "below/../..", "nul\0byte", "~/x"]
)
def test_a_path_that_leads_outside_is_refused(path: str, allowed: Path) -> None:
    with pytest.raises(DoNotRetry, match=r"DESCRIBE_FOLDERS|no such file"):
        content(path, allowed)


def test_the_answer_does_not_tell_whether_an_outside_file_exists(allowed: Path, tmp_path: Path) -> None:
    answers = set()
    for name in ("secret", "missing"):
        with pytest.raises(DoNotRetry) as caught:
            content(tmp_path / name, allowed)
        answers.add(str(caught.value))
    assert len(answers) == 1


@pytest.mark.parametrize("link", ["below/link", "folderlink/secret"])
def test_a_link_that_leads_outside_is_refused(link: str, allowed: Path, tmp_path: Path) -> None:
    (allowed / "below" / "link").symlink_to(tmp_path / "secret")
    (allowed / "folderlink").symlink_to(tmp_path)
    with pytest.raises(DoNotRetry, match=OUTSIDE):
        content(allowed / link, allowed)


def test_a_link_that_stays_inside_is_followed(allowed: Path) -> None:
    (allowed / "link").symlink_to(allowed / "below" / "file")
    assert content(allowed / "link", allowed) == b"inside"


def test_an_allowed_folder_that_is_a_link_itself_works(allowed: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(allowed)
    assert content(tmp_path / "alias" / "below" / "file", tmp_path / "alias") == b"inside"


@pytest.mark.parametrize("swapped", ["below", "below/file"])
def test_a_link_put_in_place_after_the_look_is_not_followed(
    swapped: str, allowed: Path, tmp_path: Path
) -> None:
    place = locate(str(allowed / "below" / "file"), [allowed])
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "file").write_bytes(b"outside")
    (allowed / swapped).rename(tmp_path / "moved")
    (allowed / swapped).symlink_to(outside if swapped == "below" else outside / "file")
    with pytest.raises(DoNotRetry, match="replaced by a link"):
        open_file(place)


def test_a_loop_of_links_is_refused(allowed: Path) -> None:
    (allowed / "loop").symlink_to(allowed / "loop")
    with pytest.raises(DoNotRetry):
        content(allowed / "loop", allowed)


@pytest.mark.parametrize("name", ["missing", "below/missing", "x" * 300])
def test_a_missing_file_is_named_as_such(name: str, allowed: Path) -> None:
    with pytest.raises(DoNotRetry, match="no such file"):
        content(allowed / name, allowed)


def test_a_folder_or_a_named_pipe_is_no_file(allowed: Path) -> None:
    os.mkfifo(allowed / "pipe")
    for name in ("below", "pipe"):
        with pytest.raises(DoNotRetry, match="not a file"):
            content(allowed / name, allowed)


def test_without_allowed_folders_nothing_is_opened(allowed: Path) -> None:
    with pytest.raises(DoNotRetry, match=OUTSIDE):
        content(allowed / "below" / "file")


def test_a_folder_whose_name_only_begins_alike_is_outside(allowed: Path) -> None:
    neighbour = allowed.with_name("allowed-not")
    neighbour.mkdir()
    (neighbour / "file").write_bytes(b"x")
    with pytest.raises(DoNotRetry, match=OUTSIDE):
        content(neighbour / "file", allowed)


def test_no_descriptor_is_left_open_after_a_refusal(allowed: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(DoNotRetry):
        open_file(AllowedFile(allowed, ("below", "missing", "file")))
    assert set(os.listdir("/proc/self/fd")) == before
