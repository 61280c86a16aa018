"""What the shipped handlers may touch, set once per process by its composition root.

The defaults are the safe ones: no folder may be read, no private address may be called.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024
DEFAULT_OLLAMA_MODEL = "llava"


@dataclass(frozen=True, slots=True)
class Limits:
    """The sizes and times that a handler never exceeds."""

    picture_pixels: int = 100_000_000
    picture_file_bytes: int = 200 * MIB
    picture_download_bytes: int = 20 * MIB
    picture_download_seconds: float = 30.0
    response_body_bytes: int = 64 * 1024
    redirects: int = 5
    vision_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class HandlerSettings:
    """`describe_folders` are the only places below which a handler opens a file that a payload names."""

    describe_folders: tuple[Path, ...] = ()
    uploads_folder: Path | None = None
    allow_private_addresses: bool = False
    ollama_url: str | None = None
    ollama_model: str = DEFAULT_OLLAMA_MODEL
    limits: Limits = field(default_factory=Limits)


_current = HandlerSettings()


def configure(settings: HandlerSettings) -> None:
    """Replace the settings of every handler in this process."""
    global _current
    _current = settings


def settings() -> HandlerSettings:
    return _current
