"""`describe_image` with a vision model, against a server that speaks Ollama's HTTP API."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import ExifTags, Image

from app.handlers.describe.vision import VisionFailed
from app.handlers.settings import HandlerSettings, Limits
from app.tasks.handlers import DoNotRetry, load_handlers
from tests.handler_doubles import LocalServer, Received, RecordingBackend, Reply, configured, context

HANDLER = load_handlers(["app.handlers"])["describe_image"]
MODEL = "llava:7b"


def ollama(received: Received, *, sentence: str = "A red field. It is plain.") -> Reply:
    """What `POST /api/generate` answers when `stream` is false."""
    if (received.method, received.path) != ("POST", "/api/generate"):
        return Reply(404, b"404 page not found")
    asked = received.json
    if asked["model"] != MODEL:
        return Reply(404, json.dumps({"error": f"model '{asked['model']}' not found"}).encode())
    answer = {
        "model": asked["model"],
        "created_at": "2024-05-03T10:22:31.000Z",
        "response": sentence,
        "done": True,
        "done_reason": "stop",
    }
    return Reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json; charset=utf-8"})


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "wide.jpg"
    Image.new("RGB", (3000, 1500), "#c81e28").save(path, exif=exif)
    return path


@contextmanager
def vision(
    folder: Path, answer: Callable[[Received], Reply], *, model: str = MODEL, seconds: float = 30
) -> Iterator[LocalServer]:
    with LocalServer(answer) as server:
        new = HandlerSettings(
            describe_folders=(folder,),
            ollama_url=f"{server.url}/",
            ollama_model=model,
            limits=Limits(vision_seconds=seconds),
        )
        with configured(new):
            yield server


def describe(path: Path, backend: RecordingBackend | None = None) -> dict[str, Any]:
    result: dict[str, Any] = HANDLER.call(HANDLER.parse({"path": str(path)}), context(backend)).model_dump()
    return result


def test_the_models_first_sentence_becomes_the_alt_text_and_the_facts_stay(picture: Path) -> None:
    backend = RecordingBackend()
    with vision(picture.parent, ollama):
        result = describe(picture, backend)
    assert result["alt_text"] == "A red field."
    assert result["engine"] == f"vision:{MODEL}"
    assert result["facts"]["main_colours"][0]["name"] == "red"
    assert backend.steps == ["opening", "measuring", "describing"]


def test_the_model_is_shown_a_small_upright_jpeg(picture: Path) -> None:
    with vision(picture.parent, ollama) as server:
        describe(picture)
    asked = server.received[0].json
    assert asked["stream"] is False
    assert "sentence" in asked["prompt"]
    (encoded,) = asked["images"]
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as shown:
        assert (shown.format, shown.size) == ("JPEG", (512, 1024))


def test_a_transparent_picture_is_shown_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    with vision(tmp_path, ollama) as server:
        describe(tmp_path / "clear.png")
    with Image.open(io.BytesIO(base64.b64decode(server.received[0].json["images"][0]))) as shown:
        assert shown.getpixel((25, 25)) == (255, 255, 255)


def test_a_missing_model_is_named_and_not_retried(picture: Path) -> None:
    with vision(picture.parent, ollama, model="no-such-model"), pytest.raises(DoNotRetry) as caught:
        describe(picture)
    assert "'no-such-model'" in str(caught.value)
    assert "OLLAMA_MODEL" in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, b'{"error": "llama runner process has terminated"}'),
        Reply(503, b"busy"),
        Reply(404, b"404 page not found"),
        Reply(200, b"no json"),
        Reply(200, b"[]"),
        Reply(200, b'{"response": "  "}'),
        Reply(200, b'{"response": 3}'),
        Reply(200, b'{"response": "cut', {"Content-Length": "400"}, hang_up_after=5),
    ],
)
def test_another_failure_of_the_vision_server_is_retried(picture: Path, reply: Reply) -> None:
    with vision(picture.parent, lambda _: reply), pytest.raises(VisionFailed):
        describe(picture)


def test_a_vision_server_that_is_away_is_retried_and_the_setting_is_named(picture: Path) -> None:
    with vision(picture.parent, ollama) as server:
        gone = HandlerSettings(describe_folders=(picture.parent,), ollama_url=server.url, ollama_model=MODEL)
    with configured(gone), pytest.raises(VisionFailed, match="OLLAMA_URL"):
        describe(picture)


def test_a_vision_server_that_is_too_slow_is_retried(picture: Path) -> None:
    with vision(picture.parent, ollama, seconds=0.2) as server:

        def silent(_: Received) -> Reply:
            server.closing.wait(30)
            return Reply()

        server.answer = silent
        with pytest.raises(VisionFailed, match=r"within 0\.2 seconds"):
            describe(picture)
        server.closing.set()


def test_what_is_no_picture_is_never_shown_to_the_model(tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("no picture")
    with vision(tmp_path, ollama) as server, pytest.raises(DoNotRetry, match="not a picture"):
        describe(tmp_path / "note.jpg")
    assert server.received == []
