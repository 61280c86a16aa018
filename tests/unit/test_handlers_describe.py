"""`describe_image` for files and uploads, and the sentence that a model's answer becomes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from app.handlers.describe.vision import one_sentence
from app.handlers.sample_pictures import SAMPLE_PICTURES, generate
from app.handlers.samples import SAMPLE_TASKS
from app.handlers.settings import HandlerSettings, Limits, settings
from app.tasks.handlers import DoNotRetry, TaskCancelled, TaskContext, load_handlers
from tests.handler_doubles import RecordingBackend, configured, context, picture_bytes

HANDLER = load_handlers(["app.handlers"])["describe_image"]
UPLOAD = "0123456789abcdef0123456789abcdef.png"


def describe(payload: dict[str, str], given: TaskContext | None = None) -> dict[str, Any]:
    description = HANDLER.call(HANDLER.parse(payload), given or context())
    result: dict[str, Any] = description.model_dump(mode="json")
    return result


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generate(folder)
    return folder


@pytest.fixture
def allowed(samples: Path, tmp_path: Path) -> Iterator[HandlerSettings]:
    new = HandlerSettings(describe_folders=(samples,), uploads_folder=tmp_path / "uploads")
    (tmp_path / "uploads").mkdir()
    with configured(new):
        yield new


def test_nothing_is_allowed_before_the_settings_are_made() -> None:
    with configured(HandlerSettings()), pytest.raises(DoNotRetry, match="DESCRIBE_FOLDERS"):
        describe({"path": "sample-sunset.jpg"})
    assert not HandlerSettings().allow_private_addresses


@pytest.mark.usefixtures("allowed")
def test_a_picture_gets_an_alt_text_and_its_facts() -> None:
    backend = RecordingBackend()
    result = describe({"path": "sample-lighthouse.jpg"}, context(backend))
    assert result["engine"] == "facts"
    assert result["source"] == {"kind": "path", "name": "sample-lighthouse.jpg"}
    assert result["alt_text"] == (
        "Portrait photograph, 480 x 720 pixels, mostly dark blue, dark overall;"
        " taken on 9 November 2024 with a Twintrack sample."
    )
    facts = result["facts"]
    assert (facts["format"], facts["width"], facts["height"], facts["frames"]) == ("JPEG", 480, 720, 1)
    assert facts["brightness"]["word"] == "dark"
    assert facts["main_colours"][0].keys() == {"name", "hex", "share"}
    assert facts["exif"] == {"taken_at": "2024-11-09T22:17:03", "camera": "Twintrack sample"}
    assert backend.steps == ["opening", "measuring", "describing"]


def test_an_upload_is_read_from_the_uploads_folder(allowed: HandlerSettings) -> None:
    assert allowed.uploads_folder is not None
    (allowed.uploads_folder / UPLOAD).write_bytes(picture_bytes(Image.new("RGB", (30, 20), "red")))
    result = describe({"upload": UPLOAD})
    assert result["source"] == {"kind": "upload", "name": UPLOAD}
    assert result["facts"]["orientation"] == "landscape"


def test_a_missing_upload_names_its_field(allowed: HandlerSettings) -> None:
    with pytest.raises(DoNotRetry, match=r"^upload: there is no such file$"):
        describe({"upload": UPLOAD})
    with configured(replace(allowed, uploads_folder=None)), pytest.raises(DoNotRetry, match=r"^upload: "):
        describe({"upload": UPLOAD})


def test_a_file_above_the_size_limit_is_not_opened(allowed: HandlerSettings) -> None:
    small = replace(allowed, limits=Limits(picture_file_bytes=100))
    with configured(small), pytest.raises(DoNotRetry, match="path: the file is larger than"):
        describe({"path": "sample-sunset.jpg"})


@pytest.mark.usefixtures("allowed")
def test_a_cancel_is_honoured_between_the_steps() -> None:
    backend = RecordingBackend(cancel_after=1)
    with pytest.raises(TaskCancelled):
        describe({"path": "sample-sunset.jpg"}, context(backend))
    assert backend.steps == ["opening"]


def test_the_sample_task_describes_a_sample_picture() -> None:
    assert SAMPLE_TASKS[0].payload["path"] in SAMPLE_PICTURES


def test_sample_pictures_are_the_same_bytes_each_time(samples: Path, tmp_path: Path) -> None:
    for first, again in zip(generate(samples), generate(tmp_path), strict=True):
        assert first.read_bytes() == again.read_bytes()
        assert first.name in SAMPLE_PICTURES


def test_a_sample_picture_that_exists_is_left_alone_and_no_other_file_appears(samples: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in samples.iterdir()}
    generate(samples)
    assert {path: path.stat().st_mtime_ns for path in samples.iterdir()} == before
    assert {path.name for path in before} == set(SAMPLE_PICTURES)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("A dog runs.", "A dog runs."),
        ("  “A dog\n runs over grass.”  ", "A dog runs over grass."),
        ("A dog runs. It is brown.", "A dog runs."),
        ("A sign of 3.5 metres stands here! Another one", "A sign of 3.5 metres stands here!"),
        ("A dog without an end", "A dog without an end"),
        ("", ""),
    ],
)
def test_a_models_answer_becomes_one_sentence(answer: str, sentence: str) -> None:
    assert one_sentence(answer) == sentence


def test_a_long_sentence_is_cut_at_a_word() -> None:
    cut = one_sentence("word " * 200)
    assert len(cut) <= 300
    assert cut.endswith("word…")


def test_settings_are_replaced_as_a_whole() -> None:
    new = HandlerSettings(ollama_model="other")
    with configured(new):
        assert settings() is new
