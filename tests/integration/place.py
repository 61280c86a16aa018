"""An installation without workers, and commands that run over it in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from app.system import build_system
from app.tasks.submission import TaskRequest
from config import Config
from tests.contract.rows import Rows
from tests.prepared import put_tables

IN_THE_DATABASE = {"RQ_HYBRID_MODE": "true", "RQ_ROLLOUT_PERCENT": "0"}
"""Where a migration to Redis begins."""


def sqlite_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'tasks.db'}"


class Place:
    """`settings` are those of the installation and of every command."""

    def __init__(self, **settings: str) -> None:
        self.settings = settings
        self.system = build_system(Config.for_tests(**settings))
        put_tables(settings["DATABASE_URL"])
        self.system.prepare()
        self.rows = Rows(settings["DATABASE_URL"], self.system.store.database)

    def close(self) -> None:
        self.rows.close()
        self.system.close()

    def run(self, command: click.Command, *arguments: str, **more: str) -> tuple[int, str]:
        """The exit code, and what the command said. `more`: settings of this call alone."""
        done = CliRunner().invoke(command, list(arguments), env=self.settings | more)
        return done.exit_code, done.stdout if done.stdout.startswith("{") else done.output

    def call(self, command: click.Command, *arguments: str, **more: str) -> tuple[int, Any]:
        """The exit code, and what the command said as JSON, or a failure's sentence."""
        code, said = self.run(command, *arguments, "--json", **more)
        return code, json.loads(said) if said.startswith("{") else said

    def submit(self, count: int = 1, **fields: Any) -> None:
        self.system.queue.submit_many([TaskRequest("test.noop", {}, **fields) for _ in range(count)])
