"""Uploaded pictures: judged by content, kept under our own names, shown small."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from app.web import uploads
from tests.handler_doubles import picture_bytes
from tests.web.support import MakeApp, fields_of, submit, system_of


def picture(kind: str = "PNG", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    return picture_bytes(Image.new("RGB", size, "teal"), kind, **options)


def send(client: FlaskClient, content: bytes, name: str = "holiday.png") -> TestResponse:
    # Written by hand: the test client would leave the file of a large form open.
    head = f'--cut\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
    body = head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n--cut--\r\n"
    return client.post("/api/uploads", data=body, content_type="multipart/form-data; boundary=cut")


def folder_of(app: Flask) -> Path:
    return system_of(app).config.VAR_DIR / "uploads"


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tiff")],
)
def test_a_picture_is_kept_as_it_came_under_a_name_of_ours(
    local_app: Flask, local: FlaskClient, kind: str, ending: str
) -> None:
    content = picture(kind)
    answer = send(local, content, "../../etc/passwd")
    name = answer.get_json()["upload"]
    assert answer.status_code == 201
    assert re.fullmatch(rf"[0-9a-f]{{32}}\.{ending}", name)
    assert [path.name for path in folder_of(local_app).iterdir()] == [name]
    assert (folder_of(local_app) / name).read_bytes() == content
    assert folder_of(local_app).stat().st_mode & 0o077 == 0


def test_the_name_is_what_describe_image_takes(local: FlaskClient) -> None:
    name = send(local, picture()).get_json()["upload"]
    assert submit(local, "describe_image", payload={"upload": name})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<html><script>alert(1)</script></html>",
        b"%PDF-1.7",
        b"GIF89a",
        picture()[:40],
        picture()[:20] + b"\xff" * 40,
    ],
)
def test_what_is_no_picture_is_400_and_leaves_nothing(
    local_app: Flask, local: FlaskClient, content: bytes
) -> None:
    answer = send(local, content, "picture.png")
    assert (answer.status_code, list(fields_of(answer))) == (400, ["file"])
    assert not folder_of(local_app).exists()


def test_an_upload_without_a_file_is_400(local: FlaskClient) -> None:
    for data in ({}, {"file": "text"}, {"picture": (io.BytesIO(picture()), "a.png")}):
        answer = local.post("/api/uploads", data=data, content_type="multipart/form-data")
        assert (answer.status_code, list(fields_of(answer))) == (400, ["file"])


@pytest.mark.parametrize("excess", [1, 1_000_000])
def test_a_file_over_the_limit_is_413(make_app: MakeApp, excess: int) -> None:
    content = picture()
    app = make_app(UPLOAD_LIMIT_BYTES=len(content))
    assert send(app.test_client(), content).status_code == 201
    answer = send(app.test_client(), content + b"\0" * excess)
    assert (answer.status_code, answer.mimetype) == (413, "application/problem+json")
    assert len(list(folder_of(app).iterdir())) == 1


def test_an_upload_may_be_larger_than_a_task(make_app: MakeApp) -> None:
    app = make_app(TASK_PAYLOAD_LIMIT_BYTES=100)
    content = picture("BMP", (400, 400))
    assert len(content) > 400_000
    assert send(app.test_client(), content).status_code == 201


def test_a_picture_with_too_many_pixels_is_400(local: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PIXEL_LIMIT", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    for size in ((40, 40), (1000, 1000)):
        answer = send(local, picture(size=size))
        assert (answer.status_code, list(fields_of(answer))) == (400, ["file"])


# --- thumbnails -----------------------------------------------------------------------------------


def test_a_thumbnail_is_a_small_picture_with_safe_headers(local: FlaskClient) -> None:
    name = send(local, picture("JPEG", (2000, 1000))).get_json()["upload"]
    answer = local.get(f"/api/uploads/{name}")
    assert (answer.status_code, answer.mimetype) == (200, "image/png")
    assert Image.open(io.BytesIO(answer.data)).size == (320, 160)
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "name", ["0" * 32 + ".png", "..%2f..%2fweb.db", "%2e%2e", "a.png", "0" * 32 + ".png%00", "0" * 32]
)
def test_a_name_that_is_not_ours_is_404(local_app: Flask, local: FlaskClient, name: str) -> None:
    send(local, picture())
    assert local.get(f"/api/uploads/{name}").status_code == 404


def test_a_picture_that_breaks_off_is_422(local_app: Flask, local: FlaskClient) -> None:
    name = send(local, picture("BMP", (300, 300))[:2000]).get_json()["upload"]
    answer = local.get(f"/api/uploads/{name}")
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")


def test_a_picture_too_large_for_a_preview_is_422(
    local: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "THUMBNAIL_PIXEL_LIMIT", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    name = send(local, picture()).get_json()["upload"]
    assert local.get(f"/api/uploads/{name}").status_code == 422
