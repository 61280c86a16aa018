"""Which files below a folder are pictures, and what makes two runs mean the same one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".png", ".apng", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"}
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One file as it was found: a changed file is another picture."""

    path: str
    size_bytes: int
    changed_ns: int

    def idempotency_key(self, salt: str, failures: int) -> str:
        """The same for the same file, salt and number of recorded failures: submitting again is safe,
        and trying again after a failure is a new task."""
        text = "\0".join((salt, self.path, str(self.size_bytes), str(self.changed_ns), str(failures)))
        return f"describe-{blake2b(text.encode(), digest_size=16).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Found:
    """`others` counts files that are no pictures by their ending; `unreadable` names the places that
    could not be looked at, or that no JSON can name."""

    pictures: list[Picture]
    others: int
    unreadable: list[str]


def find_pictures(folder: Path) -> Found:
    """Every picture below the folder, sorted by path; links to folders are not followed."""
    found = Found([], 0, [])
    others = 0
    for place, folders, files in os.walk(folder.resolve(), onerror=lambda error: _note(found, error)):
        folders.sort()
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES:
                _add(found, os.path.join(place, name))
            else:
                others += 1
    return Found(sorted(found.pictures, key=lambda picture: picture.path), others, sorted(found.unreadable))


def _add(found: Found, path: str) -> None:
    try:
        path.encode()
        stat = os.stat(path)
    except (OSError, UnicodeEncodeError):
        found.unreadable.append(_shown(path))
        return
    found.pictures.append(Picture(path, stat.st_size, stat.st_mtime_ns))


def _note(found: Found, error: OSError) -> None:
    found.unreadable.append(_shown(str(error.filename)))


def _shown(path: str) -> str:
    return path.encode(errors="replace").decode()
