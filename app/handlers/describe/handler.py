"""`describe_image`: a draft of an alt text for a picture, and the facts behind it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import IO, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.handlers.describe import vision
from app.handlers.describe.facts import Facts, Measured, measure
from app.handlers.describe.sentence import alt_text
from app.handlers.describe.source import opened_path, opened_upload, opened_url
from app.handlers.http_request import Url
from app.handlers.settings import HandlerSettings, settings
from app.tasks.handlers import TaskContext, task

REDUCED_SIDE_PIXELS = 256


def _path(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("path", "must not hold a NUL character")
    return text


class DescribePayload(BaseModel):
    """Exactly one of the three. A relative `path` is looked for in each allowed folder in turn."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_path)] | None = None
    upload: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.[a-z0-9]{1,5}$")] | None = None
    url: Url | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> DescribePayload:
        if sum(value is not None for value in (self.path, self.upload, self.url)) != 1:
            raise PydanticCustomError("source", "give exactly one of path, upload and url")
        return self


class Source(BaseModel):
    """What the payload named."""

    kind: Literal["path", "upload", "url"]
    name: str


class Description(BaseModel):
    """`engine` is "facts" for a sentence made of measured facts, or "vision:<model>"."""

    alt_text: str
    engine: str
    facts: Facts
    source: Source


@task("describe_image", payload=DescribePayload, timeout_seconds=300)
def describe_image(payload: DescribePayload, context: TaskContext) -> Description:
    """Open, measure, describe. Raises `DoNotRetry` for what is no picture or may not be read."""
    current = settings()
    source = _source(payload)
    context.progress(5, "opening")
    with _opened(source, current) as file:
        context.check_cancelled()
        context.progress(30, "measuring")
        measured = _measure(file, current)
    context.check_cancelled()
    context.progress(60, "describing")
    text, engine = _describe(measured, current)
    return Description(alt_text=text, engine=engine, facts=measured.facts, source=source)


def _source(payload: DescribePayload) -> Source:
    if payload.path is not None:
        return Source(kind="path", name=payload.path)
    if payload.upload is not None:
        return Source(kind="upload", name=payload.upload)
    return Source(kind="url", name=payload.url or "")


def _opened(source: Source, current: HandlerSettings) -> AbstractContextManager[IO[bytes]]:
    open_source = {"path": opened_path, "upload": opened_upload, "url": opened_url}[source.kind]
    return open_source(source.name, current)


def _measure(file: IO[bytes], current: HandlerSettings) -> Measured:
    side = vision.PICTURE_SIDE_PIXELS if current.ollama_url else REDUCED_SIDE_PIXELS
    return measure(file, limit_pixels=current.limits.picture_pixels, reduce_to_pixels=side)


def _describe(measured: Measured, current: HandlerSettings) -> tuple[str, str]:
    if current.ollama_url is None:
        return alt_text(measured.facts), "facts"
    sentence = vision.describe(
        measured.reduced,
        url=current.ollama_url,
        model=current.ollama_model,
        timeout_seconds=current.limits.vision_seconds,
    )
    return sentence, f"vision:{current.ollama_model}"
