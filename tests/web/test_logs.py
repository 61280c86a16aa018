"""Log lines: one shape for ours and the libraries', and no secret in any."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from app.logs import configure_logging


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_each_line_is_one_json_object_whoever_writes_it(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    structlog.get_logger("ours").info("task.claimed", task=7)
    logging.getLogger("theirs").warning("something\nhappened", extra={"count": 3})
    ours, theirs = lines(capfd)
    assert (ours["event"], ours["task"], ours["level"]) == ("task.claimed", 7, "info")
    assert (theirs["event"], theirs["count"], theirs["level"]) == ("something\nhappened", 3, "warning")
    assert str(ours["timestamp"]).endswith("Z")


def test_a_level_leaves_out_what_is_below_it(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", json=True)
    structlog.get_logger("ours").info("quiet")
    structlog.get_logger("ours").warning("loud")
    assert [line["event"] for line in lines(capfd)] == ["loud"]


def test_configuring_twice_writes_each_line_once(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    configure_logging("info", json=True)
    structlog.get_logger("ours").info("once")
    assert len(lines(capfd)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"api_token": "swordfish"},
        {"password": "swordfish"},
        {"Authorization": "Bearer swordfish"},
        {"secret_key": "swordfish"},
        {"url": "redis://user:swordfish@box/0"},
        {"header": "Authorization: Bearer swordfish"},
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_a_secret_is_masked(capfd: pytest.CaptureFixture[str], fields: dict[str, str], as_json: bool) -> None:
    configure_logging("info", json=as_json)
    structlog.get_logger("ours").warning("something.happened", **fields)
    assert "swordfish" not in capfd.readouterr().err


def test_a_traceback_is_part_of_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    try:
        raise ValueError("it broke")
    except ValueError as error:
        structlog.get_logger("ours").error("crashed", exc_info=error)
    [line] = lines(capfd)
    assert "it broke" in json.dumps(line)


def test_a_claims_token_number_is_masked_but_a_tasks_id_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", json=True)
    structlog.get_logger("ours").info("task.claimed", task=123, token=456)
    [line] = lines(capfd)
    assert (line["task"], line["token"]) == (123, "(hidden)")
