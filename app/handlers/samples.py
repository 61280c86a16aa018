"""Tasks that a visitor of the web page can submit with one click."""

from __future__ import annotations

from typing import Any, NamedTuple


class SampleTask(NamedTuple):
    """`expect` tells the visitor what will be seen."""

    title: str
    name: str
    payload: dict[str, Any]
    expect: str


SAMPLE_TASKS: tuple[SampleTask, ...] = (
    SampleTask(
        "Describe a picture",
        "describe_image",
        # Relative: found in whichever allowed folder holds the sample pictures.
        {"path": "sample-sunset.jpg"},
        "A draft of an alt text, with the size, the main colours and the camera it was made from.",
    ),
    SampleTask(
        "Sleep for five seconds",
        "test.sleep",
        {"seconds": 5, "steps": 10},
        "A bar that moves ten times; cancel it and it stops at once.",
    ),
    SampleTask(
        "Echo",
        "test.echo",
        {"message": "Hello from both tracks"},
        "The payload comes back as the result, usually in some milliseconds.",
    ),
    SampleTask(
        "Fail twice, then succeed",
        "test.fail",
        {"times": 2, "message": "not yet"},
        "Two failures, each followed by a longer wait, then COMPLETED at the third attempt.",
    ),
    SampleTask(
        "Fail for good",
        "test.fail",
        {"times": 1, "message": "this one stays a dead letter", "permanent": True},
        "FAILED at once, without a retry; it waits among the dead letters for an operator.",
    ),
)
