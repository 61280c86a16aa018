"""Pictures that a visitor sends, kept under names of our own, and their thumbnails.

A file is judged by its content alone: its name and declared type are never looked at.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import threading
import uuid
import zlib
from pathlib import Path
from typing import IO

from flask import Blueprint, Response, request
from PIL import Image
from werkzeug.datastructures import FileStorage

from app.handlers.describe.facts import FORMATS, SHOWN_FORMATS, measure
from app.handlers.settings import Limits
from app.tasks.handlers import DoNotRetry
from app.web import auth, parts
from app.web.problems import invalid, refused

ENDINGS = {"JPEG": "jpg", "TIFF": "tiff"}
NAME = re.compile(r"[0-9a-f]{32}\.[a-z0-9]{1,5}")
MULTIPART_BYTES = 64 * 1024
PIXEL_LIMIT = Limits().picture_pixels
THUMBNAIL_PIXEL_LIMIT = 50_000_000
THUMBNAIL_SIDE = 320
KEEP_SECONDS = 86_400

_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What a broken or hostile picture makes Pillow raise.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
)

# Decoding takes memory by the pixel: one picture at a time.
_decoding = threading.Lock()

uploads = Blueprint("uploads", __name__, url_prefix="/api/uploads")


@uploads.before_request
def _limit() -> None:
    request.max_content_length = _limit_bytes() + MULTIPART_BYTES


uploads.before_request(auth.guard(auth.Role.SUBMITTER))


@uploads.post("")
def upload() -> tuple[dict[str, str], int]:
    """Keep the picture in the form field `file`; 201 with the name that `describe_image` takes as `upload`.

    400 for what is no picture, 413 for one that is too large.
    """
    file = request.files.get("file")
    if file is None:
        raise invalid("file", "is required: send the picture as multipart/form-data")
    if _size(file) > _limit_bytes():
        raise refused(413, f"The file is larger than {_limit_bytes()} bytes.")
    name = f"{uuid.uuid4().hex}.{_ending(file.stream)}"
    _keep(file.stream, name)
    return {"upload": name}, 201


@uploads.get("/<name>")
def thumbnail(name: str) -> Response:
    """A small PNG of an uploaded picture. 404 for a name that we did not give, 422 for a broken picture."""
    path = _folder() / name
    if not NAME.fullmatch(name) or not path.is_file():
        raise refused(404, "There is no such upload.")
    response = Response(_thumbnail(path), mimetype="image/png")
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Content-Disposition"] = "inline"
    response.headers["Cache-Control"] = f"private, max-age={KEEP_SECONDS}, immutable"
    return response


def _limit_bytes() -> int:
    return parts.system().config.UPLOAD_LIMIT_BYTES


def _folder() -> Path:
    return parts.system().config.VAR_DIR / "uploads"


def _size(file: FileStorage) -> int:
    size = file.stream.seek(0, os.SEEK_END)
    file.stream.seek(0)
    return size


def _ending(stream: IO[bytes]) -> str:
    """The ending that the content asks for. Decodes no pixel. Raises 400."""
    Image.MAX_IMAGE_PIXELS = PIXEL_LIMIT
    try:
        with Image.open(stream, formats=FORMATS) as picture:
            kind = picture.format or ""
            if picture.width * picture.height > PIXEL_LIMIT:
                raise Image.DecompressionBombError
            picture.verify()
    except _TOO_LARGE:
        megapixels = PIXEL_LIMIT // 1_000_000
        raise invalid("file", f"has more than {megapixels} megapixels, the largest we open") from None
    except _BROKEN:
        raise invalid("file", "is not a picture of a kind that we know, or is damaged") from None
    shown = SHOWN_FORMATS.get(kind, kind)
    return ENDINGS.get(shown, shown.lower())


def _keep(stream: IO[bytes], name: str) -> None:
    """Write the file under another name first: nobody sees half a picture."""
    folder = _folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = folder / f".{name}.part"
    stream.seek(0)
    try:
        with unfinished.open("xb") as target:
            shutil.copyfileobj(stream, target)
        unfinished.replace(folder / name)
    finally:
        unfinished.unlink(missing_ok=True)


def _thumbnail(path: Path) -> bytes:
    try:
        with _decoding, path.open("rb") as file:
            small = measure(file, limit_pixels=THUMBNAIL_PIXEL_LIMIT, reduce_to_pixels=THUMBNAIL_SIDE).reduced
    except DoNotRetry as error:
        raise refused(422, str(error)) from None
    target = io.BytesIO()
    small.save(target, "PNG")
    return target.getvalue()
