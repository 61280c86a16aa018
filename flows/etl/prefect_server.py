"""A Prefect server on this machine: `make prefect-server`.

It keeps its data in VAR_DIR/prefect, listens on the loopback address only, and sends statistics to nobody.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from config import Config, ConfigError

HOST = "127.0.0.1"
# A task that finds its tag's places taken looks again so soon; Prefect's own default is half a minute.
SLOT_WAIT_SECONDS = 2
# Its SQLite file has one writer at a time, and every flow run writes.
DATABASE_TIMEOUT_SECONDS = 60


@click.command(help=__doc__)
@click.option("--port", type=click.IntRange(1, 65535), default=4200, show_default=True)
def main(port: int) -> None:
    """See the module."""
    try:
        home = Config().VAR_DIR / "prefect"
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    home.mkdir(parents=True, exist_ok=True)
    settings = {
        "PREFECT_HOME": home,
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_DATABASE_TIMEOUT": DATABASE_TIMEOUT_SECONDS,
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": SLOT_WAIT_SECONDS,
    }
    server = Path(sys.executable).with_name("prefect")
    command = [str(server), "server", "start", "--host", HOST, "--port", str(port)]
    os.execvp("env", ["env", *(f"{name}={value}" for name, value in settings.items()), *command])


if __name__ == "__main__":
    main()
