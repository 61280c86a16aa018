"""Writes a `.env` for one tier, with random tokens where the tier is reachable by others."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

TIERS = ("development", "staging", "production")
TOKENS = ("ADMIN_TOKEN", "API_TOKEN", "SECRET_KEY")


def env_text(tier: str) -> str:
    """The file's text: the tier and, outside development, fresh tokens and JSON logs."""
    lines = [
        f"# Settings of the {tier} tier. .env.example describes all of them.",
        f"APP_ENV={tier}",
    ]
    if tier != "development":
        lines += [f"{name}={secrets.token_urlsafe(32)}" for name in TOKENS]
        lines += ["LOG_JSON=true"]
    return "\n".join(lines) + "\n"


def write_env(path: Path, tier: str, *, force: bool) -> None:
    """Write the file, readable by its owner only. Raises FileExistsError unless `force`."""
    if force:
        path.unlink(missing_ok=True)
    # The mode is given at creation, so that the tokens are never readable by others.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(env_text(tier))


@click.command(help=__doc__)
@click.argument("tier", type=click.Choice(TIERS))
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--path", type=click.Path(path_type=Path), default=Path(".env"), show_default=True)
def main(tier: str, force: bool, path: Path) -> None:
    try:
        write_env(path, tier, force=force)
    except FileExistsError:
        click.echo(f"{path} exists and was left as it is; FORCE=1 (or --force) replaces it.", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"{path} cannot be written: {error.strerror}.", err=True)
        sys.exit(2)
    click.echo(f"Wrote {path} for {tier}. `make list-config` shows what is in force.")


if __name__ == "__main__":
    main()
