"""An archive is believed only if every byte is as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.transfer import archive
from app.transfer.archive import Archive, ArchiveRefused, ArchiveWriter

LINES = [f"line {number} \U0001f600\u2028 x" for number in range(25)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of three parts."""
    monkeypatch.setattr(archive, "PART_LINES", 10)
    with ArchiveWriter(tmp_path / "kept", "test") as writer:
        assert writer.write_lines("lines", LINES) == len(LINES)
        writer.facts = {"number": 7}
    return tmp_path / "kept"


def test_what_was_written_is_read_in_its_order(folder: Path) -> None:
    kept = Archive(folder, "test")
    kept.check()

    assert list(kept.lines("lines")) == LINES
    assert kept.facts["number"] == 7
    assert len(kept.facts["parts"]) == 3


def test_a_part_of_which_one_bit_has_changed_is_refused(folder: Path) -> None:
    part = folder / "lines-00002.gz"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)

    with pytest.raises(ArchiveRefused, match="lines-00002"):
        Archive(folder, "test").check()


def test_a_part_that_is_missing_is_refused(folder: Path) -> None:
    (folder / "lines-00003.gz").unlink()

    with pytest.raises(ArchiveRefused, match="lines-00003"):
        Archive(folder, "test").check()


def test_a_manifest_that_was_edited_is_refused(folder: Path) -> None:
    manifest = folder / archive.MANIFEST
    manifest.write_text(manifest.read_text().replace('"number": 7', '"number": 8'))

    with pytest.raises(ArchiveRefused, match="not as it was written"):
        Archive(folder, "test")


def test_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(ArchiveRefused, match="is no backup"):
        Archive(folder, "backup")


def test_a_folder_that_is_there_is_left_alone(folder: Path) -> None:
    with pytest.raises(FileExistsError), ArchiveWriter(folder, "test"):
        pass

    Archive(folder, "test").check()


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), ArchiveWriter(tmp_path / "half", "test") as writer:
        writer.write_lines("lines", (str(1 // number) for number in (1, 0)))

    assert list(tmp_path.iterdir()) == []
