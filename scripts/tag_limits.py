"""How many children with a tag may be on their way at a time, on all hosts together: set, lift and list.

Exit 0: done. 2: a wrong tag or number, or the database cannot be reached.
"""

from __future__ import annotations

import json

import click

from scripts.opening import opened


@click.group(help=__doc__)
def main() -> None:
    """See the module."""


@main.command("set")
@click.argument("tag")
@click.argument("at_most", type=click.IntRange(min=0))
def limit(tag: str, at_most: int) -> None:
    """Admit no more than AT_MOST children with TAG at a time: database 3"""
    with opened() as system:
        system.queue.families.limit(tag, at_most)
        click.echo(f"At most {at_most} children with the tag {tag} are on their way at a time from here on.")


@main.command("unset")
@click.argument("tag")
def lift(tag: str) -> None:
    """Let children with TAG start as they come."""
    with opened() as system:
        system.queue.families.limit(tag, None)
        click.echo(f"The tag {tag} has no limit.")


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(as_json: bool) -> None:
    """The tags that have a limit."""
    with opened() as system:
        limits = system.queue.families.limits()
    if as_json:
        click.echo(json.dumps(limits))
        return
    for tag, at_most in limits.items():
        click.echo(f"{tag}: {at_most}")


if __name__ == "__main__":
    main()
