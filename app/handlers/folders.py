"""Files that a payload names: only below the allowed folders, whatever links and dots say.

A path is judged by where it really leads. It is then opened one folder at a time from the allowed
folder down, refusing every link, so that nobody can swap a folder for a link between look and open.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.tasks.handlers import DoNotRetry

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the opening of a named pipe would wait for its other end.
_LAST = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_MISSING = "there is no such file"
_NO_FILE = "this is not a file"
_CHANGED = "a part of it is no folder, or was replaced by a link while it was being opened"
_SENTENCES = {
    errno.ENOENT: _MISSING,
    errno.ENAMETOOLONG: _MISSING,
    errno.EACCES: "the worker may not open this file",
    errno.EPERM: "the worker may not open this file",
    errno.EISDIR: _NO_FILE,
    errno.ENXIO: _NO_FILE,
    errno.ELOOP: _CHANGED,
    errno.ENOTDIR: _CHANGED,
}


@dataclass(frozen=True, slots=True)
class AllowedFile:
    """A file's place: an allowed folder, free of links, and the names that lead down from it."""

    folder: Path
    names: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder.joinpath(*self.names)


def locate(path: str, folders: Sequence[Path], *, field: str = "path") -> AllowedFile:
    """Where `path` really leads; a relative one is looked for in each allowed folder in turn.

    The file need not exist. Raises `DoNotRetry` for a place outside the folders, without telling
    whether anything is there.
    """
    candidates = [Path(path)] if Path(path).is_absolute() else [folder / path for folder in folders]
    allowed = [found for found in (_within(place, folders) for place in candidates) if found is not None]
    for found in allowed:
        if os.path.exists(found.path):
            return found
    if not allowed:
        raise DoNotRetry(f"{field}: this place is not below a folder of the setting DESCRIBE_FOLDERS")
    return allowed[0]


def open_file(place: AllowedFile, flags: int = os.O_RDONLY, *, field: str = "path") -> int:
    """A descriptor of the regular file at `place`; files that `flags` create get mode 0600.

    Raises `DoNotRetry` when there is none or it may not be opened, `OSError` when the disk fails.
    """
    try:
        descriptor = _open_below(place, flags)
    except OSError as error:
        if error.errno not in _SENTENCES:
            raise
        raise DoNotRetry(f"{field}: {_SENTENCES[error.errno]}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DoNotRetry(f"{field}: {_NO_FILE}")
    return descriptor


def _within(place: Path, folders: Sequence[Path]) -> AllowedFile | None:
    try:
        real = place.resolve()
        for folder in folders:
            root = folder.resolve()
            if real != root and real.is_relative_to(root):
                return AllowedFile(root, real.relative_to(root).parts)
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or a name that no file can have.
        return None
    return None


def _open_below(place: AllowedFile, flags: int) -> int:
    *steps, last = place.names
    here = os.open(place.folder, _STEP)
    try:
        for step in steps:
            below = os.open(step, _STEP, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags | _LAST, 0o600, dir_fd=here)
    finally:
        os.close(here)
