"""Mapping files: the shipped ones are right, and what is wrong with one is named by file and field."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from app.tasks.handlers import load_handlers
from app.tasks.model import Priority
from app.transfer.legacy.mapping import MappingRefused, mapping_of, read_mapping
from config import ROOT

SHIPPED = sorted((ROOT / "mappings").glob("*.toml"))
HANDLERS = load_handlers(["app.handlers"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_mapping_is_named_as_its_file_and_its_tasks_have_a_handler(path: Path) -> None:
    mapping = read_mapping(path)
    assert mapping.name == path.stem
    fields = set(mapping.payload.columns) | set(mapping.payload.json_columns)
    taken = HANDLERS[mapping.task].payload_type.json_schema()["properties"]
    assert fields <= set(taken)


def test_both_mappings_ship() -> None:
    assert [path.stem for path in SHIPPED] == ["caption_tasks", "images"]


def images(**changes: Any) -> dict[str, Any]:
    return tomllib.loads((ROOT / "mappings" / "images.toml").read_text()) | changes


def status(**changes: Any) -> dict[str, Any]:
    words: dict[str, Any] = images()["status"]
    return {"status": words | changes}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tabel": "images"}, "tabel: Extra inputs are not permitted"),
        ({"table": "images; DROP TABLE tasks"}, "table: String should match pattern"),
        (status(column="a b"), "status.column: String should match pattern"),
        (status(moved="QUEUED"), "status: moved must be a word of its own"),
        (status(running="QUEUED"), "status: queued must be a word of its own"),
        ({"user": {"column": "a", "expression": "b"}}, "user: give exactly one of column and expression"),
        ({"priority": {"column": "p", "default": "soon"}}, "priority.default: Input should be 'urgent'"),
        ({"payload": {"whole": "a", "constants": {"b": 1}}}, "payload: whole leaves no room"),
        ({"write_back": {"done": {"note": "outcome"}}}, "write_back.done.note: Input should be 'now'"),
        ({"fault": [{"name": "odd", "when": "1 = 1"}]}, "fault.0.fenced: Field required"),
    ],
)
def test_what_is_wrong_is_named_by_its_field(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MappingRefused) as refused:
        mapping_of(images(**change), said_in="of the test")
    assert str(refused.value).startswith("the mapping of the test is wrong:\n")
    assert f"  {complaint}" in str(refused.value)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(MappingRefused) as refused:
        mapping_of({"name": "Images"}, said_in="of the test")
    named = {line.split(":")[0].strip() for line in str(refused.value).splitlines()[1:]}
    assert named == {"name", "table", "key", "task", "status"}


def test_a_file_that_is_missing_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(MappingRefused, match=r"gone\.toml cannot be read: No such file"):
        read_mapping(tmp_path / "gone.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("name = images")
    with pytest.raises(MappingRefused, match=r"bad\.toml is not TOML: .*line 1"):
        read_mapping(bad)


def test_words_of_priorities_are_translated() -> None:
    mapping = mapping_of(images(priority={"column": "p", "words": {"1": "urgent"}}), said_in="here")
    assert mapping.priority is not None
    assert mapping.priority.words == {"1": Priority.URGENT}
    assert mapping.priority.default is Priority.NORMAL
