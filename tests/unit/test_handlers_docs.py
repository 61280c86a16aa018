"""The page about the handlers names every task and every field there is."""

from __future__ import annotations

from app.handlers.describe.handler import Description
from app.handlers.http_request import HttpRequestPayload, HttpResult
from app.tasks.handlers import load_handlers
from config import ROOT, Config

PAGE = (ROOT / "docs" / "handlers.md").read_text()


def test_the_page_names_every_shipped_task() -> None:
    assert [name for name in load_handlers(["app.handlers"]) if f"`{name}`" not in PAGE] == []


def test_the_page_names_every_field_of_requests_and_results() -> None:
    request = {field.alias or name for name, field in HttpRequestPayload.model_fields.items()}
    fields = request | set(HttpResult.model_fields) | set(Description.model_fields)
    assert [name for name in fields if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE] == []


def test_the_settings_on_the_page_exist() -> None:
    named = {
        "DESCRIBE_FOLDERS",
        "HTTP_ALLOW_PRIVATE",
        "OLLAMA_MODEL",
        "OLLAMA_URL",
        "TASK_MODULES",
        "API_TOKEN",
    }
    assert all(name in PAGE for name in named)
    assert named <= set(Config.model_fields)
