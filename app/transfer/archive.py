"""A folder of compressed lines with a manifest: what baselines and backups are kept in.

Written beside its final name and renamed when it is whole, so that a folder with the name is complete.
Before anything of it is believed, every part is held against the manifest, and the manifest against the
checksum beside it: what was changed by accident or by hand is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
PART_LINES = 1_000_000
COMPRESSION = 1  # digests do not compress, and payloads hardly better at higher levels
READ_BYTES = 1 << 20


class ArchiveRefused(Exception):
    """A folder that is no archive of the wanted kind, or not as it was written."""


class ArchiveWriter:
    """Writes one archive; use as a context. Raises `FileExistsError` if the folder is there."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._partial = folder.with_name(f"{folder.name}.partial")
        self._parts: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}  # what the manifest says besides the parts

    def __enter__(self) -> ArchiveWriter:
        if self._folder.exists():
            raise FileExistsError(f"{self._folder} exists")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(mode=0o700, parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        self._finish()

    def write_lines(self, name: str, lines: Iterable[str]) -> int:
        """Write lines, none with a line break inside, as parts `name-00001.gz`, …; returns how many."""
        total, source = 0, iter(lines)
        for number in range(1, 100_000):
            written = self._write_part(name, number, source)
            total += written
            if written < PART_LINES:
                break
        return total

    def _write_part(self, name: str, number: int, source: Iterator[str]) -> int:
        path = self._partial / f"{name}-{number:05}.gz"
        count = 0
        # no time and no name inside: like lines give like bytes
        with path.open("wb") as raw, gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as packed:
            for line in source:
                packed.write(line.encode("utf-8") + b"\n")
                count += 1
                if count == PART_LINES:
                    break
        self._note(path, name, count)
        return count

    def place(self, name: str) -> Path:
        """Where somebody else may write a file; `adopt` it afterwards."""
        return self._partial / name

    def adopt(self, name: str) -> None:
        """Take a file that was written at `place` into the manifest."""
        self._note(self._partial / name, "", 0)

    def _note(self, path: Path, name: str, lines: int) -> None:
        checksum = _sha256(path)
        size = path.stat().st_size
        self._parts.append({"file": path.name, "of": name, "lines": lines, "bytes": size, "sha256": checksum})

    def _finish(self) -> None:
        manifest = {"kind": self._kind, "version": 1} | self.facts | {"parts": self._parts}
        text = json.dumps(manifest, indent=2, sort_keys=True).encode()
        (self._partial / MANIFEST).write_bytes(text)
        (self._partial / CHECKSUM).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")
        for path in (*self._partial.iterdir(), self._partial):
            _sync(path)
        os.rename(self._partial, self._folder)
        _sync(self._folder.parent)


class Archive:
    """An archive that was written whole. Raises `ArchiveRefused` for anything else."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Checks the manifest; the parts are checked by `check`."""
        self.folder = folder
        self.facts = self._manifest()
        if self.facts.get("kind") != kind or self.facts.get("version") != 1:
            raise ArchiveRefused(f"{folder} is no {kind} of this version")

    def _manifest(self) -> dict[str, Any]:
        try:
            text = (self.folder / MANIFEST).read_bytes()
            said = (self.folder / CHECKSUM).read_text().split()
        except OSError as error:
            raise ArchiveRefused(f"{self.folder} cannot be read: {error.strerror}") from None
        if said[:1] != [hashlib.sha256(text).hexdigest()]:
            raise ArchiveRefused(f"{self.folder / MANIFEST} is not as it was written")
        manifest: dict[str, Any] = json.loads(text)
        return manifest

    def check(self) -> None:
        """Hold every part against the manifest."""
        for part in self.facts["parts"]:
            path = self.folder / part["file"]
            try:
                right = _sha256(path) == part["sha256"]
            except OSError as error:
                raise ArchiveRefused(f"{path} cannot be read: {error.strerror}") from None
            if not right:
                raise ArchiveRefused(f"{path} is not as it was written")

    def lines(self, name: str) -> Iterator[str]:
        """The lines that were written under this name."""
        for part in self.facts["parts"]:
            if part["of"] == name:
                with gzip.open(self.folder / part["file"], "rt", encoding="utf-8", newline="\n") as stream:
                    yield from (line[:-1] for line in stream)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Through to the disk: a backup that a power cut takes is none."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
