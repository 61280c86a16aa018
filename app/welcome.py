"""What a new user finds after `make run`: sample pictures, and a few lines that say what to try."""

from __future__ import annotations

import click

from app.embedded_redis import EmbeddedRedis
from app.handlers.sample_pictures import generate
from app.system import System
from config import Config


def add_samples(system: System) -> None:
    """Put the sample pictures into the pictures folder; existing files stay as they are."""
    generate(system.config.VAR_DIR / "pictures")


def welcome(config: Config) -> None:
    """Print the address and three commands to try."""
    address = f"http://{config.HOST}:{config.PORT}"
    if config.APP_ENV != "development":
        click.echo(f"Twintrack listens on {address}")
        return
    picture = config.VAR_DIR / "pictures"
    click.echo(
        f"""
  Twintrack is ready:  {address}

  Try, in another terminal:
    curl -s {address}/api/tasks -H 'Content-Type: application/json' \\
         -d '{{"name": "test.sleep", "payload": {{"seconds": 5}}, "priority": "high"}}'
    .venv/bin/python -m app.handlers.describe {picture}
    .venv/bin/python -m workers status
"""
    )
    if config.embedded_redis and config.RQ_ENABLED:
        click.echo(f"  The queues themselves:  {EmbeddedRedis(config).cli_line()}\n")
    click.echo("  Ctrl+C stops everything.\n")
