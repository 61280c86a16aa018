"""Twintrack: tasks as rows, delivered through Redis or the database.

`create_app` imports its parts inside, so that `import app.tasks` loads no Flask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from config import Config


def create_app(config: Config | None = None) -> Flask:
    """Build the web application.

    Raises `config.ConfigError` for a wrong setting. Starts no worker, no server and no thread:
    entrances (`web_app.py`, gunicorn) decide what runs beside it.
    """
    from app.web import build_app

    return build_app(config)
