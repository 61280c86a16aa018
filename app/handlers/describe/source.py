"""Where a picture comes from: a file below an allowed folder, an upload, or a URL."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from app.handlers.folders import locate, open_file
from app.handlers.outbound import (
    RETRY_STATUSES,
    Deadline,
    Outgoing,
    RequestFailed,
    exchange,
    origin,
    read_at_most,
)
from app.handlers.settings import MIB, HandlerSettings
from app.tasks.handlers import DoNotRetry

HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "Twintrack"}


@contextmanager
def opened_path(path: str, settings: HandlerSettings) -> Iterator[IO[bytes]]:
    """Raises `DoNotRetry` for a place outside the allowed folders, no file, or one that is too large."""
    with _opened(path, settings.describe_folders, settings, "path") as file:
        yield file


@contextmanager
def opened_upload(upload: str, settings: HandlerSettings) -> Iterator[IO[bytes]]:
    """As `opened_path`, for a name in the uploads folder."""
    if settings.uploads_folder is None:
        raise DoNotRetry("upload: this worker has no uploads folder")
    with _opened(upload, (settings.uploads_folder,), settings, "upload") as file:
        yield file


@contextmanager
def opened_url(url: str, settings: HandlerSettings) -> Iterator[IO[bytes]]:
    """The downloaded file, in memory. Raises `RequestFailed` when another attempt may help."""
    limits = settings.limits
    outgoing = Outgoing(
        method="GET",
        url=url,
        headers=HEADERS,
        timeout_seconds=limits.picture_download_seconds,
        redirects=limits.redirects,
        allow_private=settings.allow_private_addresses,
    )
    with exchange(outgoing) as (response, deadline):
        body = _download(response, deadline, limits.picture_download_bytes)
    yield io.BytesIO(body)


@contextmanager
def _opened(
    name: str, folders: tuple[Path, ...], settings: HandlerSettings, field: str
) -> Iterator[IO[bytes]]:
    with os.fdopen(open_file(locate(name, folders, field=field), field=field), "rb") as file:
        limit_bytes = settings.limits.picture_file_bytes
        if os.fstat(file.fileno()).st_size > limit_bytes:
            raise DoNotRetry(f"{field}: the file is larger than {limit_bytes // MIB} MiB")
        yield file


def _download(response: httpx.Response, deadline: Deadline, limit_bytes: int) -> bytes:
    status = response.status_code
    if status in RETRY_STATUSES:
        raise RequestFailed(f"{origin(response.url)} answered {status}")
    if status != 200:
        raise DoNotRetry(f"url: {origin(response.url)} answered {status} instead of a picture")
    too_large = DoNotRetry(f"url: the picture is larger than {limit_bytes / MIB:g} MiB")
    # A length that is missing or lies is caught while reading.
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    body, truncated = read_at_most(response, limit_bytes, deadline)
    if truncated:
        raise too_large
    return body
