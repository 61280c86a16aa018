"""Which payloads the shipped handlers accept, and that no refusal repeats a secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.handlers import SHIPPED_MODULES
from app.handlers.samples import SAMPLE_TASKS
from app.tasks.errors import InvalidTask
from app.tasks.handlers import load_handlers

HANDLERS = load_handlers(["app.handlers"])
UPLOAD = "0123456789abcdef0123456789abcdef.jpg"


def refusal(name: str, payload: Any) -> str:
    """The same sentence must come from the typed and from the JSON way in."""
    with pytest.raises(InvalidTask) as typed:
        HANDLERS[name].parse(payload)
    with pytest.raises(InvalidTask) as text:
        HANDLERS[name].parse_json(json.dumps(payload))
    assert str(typed.value) == str(text.value)
    return str(typed.value)


def test_loading_the_package_declares_every_shipped_handler() -> None:
    assert set(HANDLERS) == {
        *("describe_image", "generate_captions", "http_request"),
        *("test.echo", "test.fail", "test.ledger", "test.noop", "test.sleep"),
    }
    modules = {handler.function.__module__ for handler in HANDLERS.values()}
    assert all(module.startswith(SHIPPED_MODULES) for module in modules)


@pytest.mark.parametrize("sample", SAMPLE_TASKS, ids=lambda sample: sample.title)
def test_every_sample_is_a_valid_task(sample: Any) -> None:
    HANDLERS[sample.name].parse(sample.payload)


@pytest.mark.parametrize(
    "payload",
    [{"path": "a.jpg"}, {"path": "/p/a.jpg"}, {"upload": UPLOAD}, {"url": "https://example.org/a.jpg"}],
)
def test_a_picture_is_named_in_one_of_three_ways(payload: dict[str, str]) -> None:
    HANDLERS["describe_image"].parse(payload)


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({}, "payload: give exactly one of path, upload and url"),
        ({"path": "a", "url": "http://example.org"}, "payload: give exactly one of path, upload and url"),
        ({"path": ""}, "payload.path: "),
        ({"path": "a\0b"}, "payload.path: must not hold a NUL character"),
        ({"path": "a" * 5000}, "payload.path: "),
        ({"upload": "../" + UPLOAD}, "payload.upload: "),
        ({"upload": UPLOAD + "\n"}, "payload.upload: "),
        ({"upload": UPLOAD.upper()}, "payload.upload: "),
        ({"upload": UPLOAD.removesuffix(".jpg")}, "payload.upload: "),
        ({"url": "ftp://example.org"}, "payload.url: must start with http:// or https://"),
        ({"picture": "a"}, "payload.picture: "),
    ],
)
def test_a_wrong_picture_payload_is_refused_with_the_field(payload: dict[str, str], complaint: str) -> None:
    assert complaint in refusal("describe_image", payload)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"url": "gopher://example.org"}, "payload.url: must start with http:// or https://"),
        ({"url": "http://me:geheim@example.org"}, "payload.url: must not hold a user name or password"),
        ({"method": "TRACE"}, "payload.method: "),
        ({"headers": {"Bad Name": "geheim"}}, "payload.headers: a header's name"),
        ({"headers": {"X-Key": "geheim\r\nHost: evil"}}, "payload.headers: the value of X-Key"),
        ({"headers": {"X-Key": "geheim\u2028"}}, "payload.headers: the value of X-Key"),
        ({"headers": {"Host": "geheim"}}, "payload.headers: Host is set by the worker"),
        ({"headers": {"content-length": "geheim"}}, "payload.headers: content-length is set"),
        ({"headers": {"Idempotency-Key": "geheim"}}, "payload.headers: Idempotency-Key is set"),
        ({"headers": {"Authorization": ["geheim"]}}, "payload.headers.Authorization: "),
        ({"headers": {f"X-{n}": "" for n in range(51)}}, "payload.headers: "),
        ({"json": {"a": 1}, "text": "geheim"}, "payload: give json or text, not both"),
        ({"timeout_seconds": 0}, "payload.timeout_seconds: "),
        ({"timeout_seconds": 100_000}, "payload.timeout_seconds: "),
        ({"expected_statuses": [42]}, "payload.expected_statuses.0: "),
        ({"body": "geheim"}, "payload.body: "),
    ],
)
def test_a_wrong_request_is_refused_with_the_field_and_without_the_value(
    wrong: dict[str, Any], complaint: str
) -> None:
    sentence = refusal("http_request", {"url": "https://example.org", **wrong})
    assert complaint in sentence
    assert "geheim" not in sentence


def test_a_null_body_is_a_body() -> None:
    assert HANDLERS["http_request"].parse({"url": "https://example.org", "json": None}).has_json
    assert not HANDLERS["http_request"].parse({"url": "https://example.org"}).has_json


def test_a_method_may_be_written_in_small_letters() -> None:
    assert HANDLERS["http_request"].parse({"url": "https://example.org", "method": "get"}).method == "GET"


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("test.sleep", {"seconds": -1}),
        ("test.sleep", {"steps": 0}),
        ("test.fail", {"times": "many"}),
        ("test.ledger", {}),
        ("test.ledger", {"path": "a", "second": 1}),
    ],
)
def test_a_wrong_test_payload_is_refused(name: str, payload: dict[str, Any]) -> None:
    assert "payload." in refusal(name, payload)
