"""`generate_captions`: what an imported row of a caption queue runs as, with the settings that its form had.

It talks to no platform: which posts there are is the deployment's to say, by a handler of the same name in
its own TASK_MODULES. This one checks the settings and answers in the words that such a queue's readers know.
"""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.tasks.handlers import TaskContext, task


class CaptionSettings(BaseModel):
    """Of one run. What is not given has the value that the legacy application gave it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    max_posts_per_run: int = Field(default=50, ge=1, le=10_000)
    max_caption_length: int = Field(default=500, ge=1, le=100_000)
    optimal_min_length: int = Field(default=80, ge=0, le=100_000)
    optimal_max_length: int = Field(default=200, ge=0, le=100_000)
    reprocess_existing: bool | int = False
    processing_delay: float = Field(default=1.0, ge=0, le=3600)


class CaptionPayload(BaseModel):
    """The row's key, and whose posts of which connection are meant. Without settings the defaults count."""

    model_config = ConfigDict(extra="forbid")

    caption_task_id: str = Field(min_length=1, max_length=80)
    user_id: int
    platform_connection_id: int
    settings: CaptionSettings | None = None


@task("generate_captions", payload=CaptionPayload)
def generate_captions(payload: CaptionPayload, context: TaskContext) -> dict[str, Any]:
    """Check the settings and report a run without posts."""
    began = time.monotonic()
    context.check_cancelled()
    context.progress(100, "no posts: this deployment has no caption handler of its own")
    return {
        "task_id": payload.caption_task_id,
        "posts_processed": 0,
        "images_processed": 0,
        "captions_generated": 0,
        "errors_count": 0,
        "skipped_existing": 0,
        "processing_time_seconds": round(time.monotonic() - began, 3),
        "error_details": [],
        "generated_image_ids": [],
    }
