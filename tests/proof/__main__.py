"""`python -m tests.proof`: the verifier finds every planted fault, and none on live systems under load.

Both on MariaDB and Redis. First so many rows are recorded, moved and verified clean, which gives the rates;
then faults are planted among them. Then a system with workers, submissions, cancels and failures is
verified again and again while it runs.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from app.logs import configure_logging
from app.tasks.database import Database
from app.tasks.migrate import migrate
from app.tasks.tickets import RQQueueManager
from app.transfer.baseline import Baseline, record
from app.transfer.verification.report import Report
from app.transfer.verification.suspects import Patience
from app.transfer.verification.tickets import TicketReader
from app.transfer.verification.verifier import Verifier, Wanted
from tests.proof.load import verify_under_load
from tests.proof.planting import LIMITS, Field, Planted, time_limit
from tests.servers import MariaDbServer, RedisServer

EXIT_BROKEN = 1
WINDOW = 10**9


@click.command(help=__doc__)
@click.option("--rows", default=200_000, show_default=True, help="Rows of the field.")
@click.option("--faults", default=1_000, show_default=True, help="Faults planted in it.")
@click.option("--runs", default=20, show_default=True, help="Verifications under load.")
@click.option("--seed", default=1, show_default=True, help="Chooses the rows and what is planted where.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=Path("var/verify-proof.json"))
def main(rows: int, faults: int, runs: int, seed: int, json_path: Path) -> None:
    configure_logging("error", json=False)
    figures: dict[str, Any] = {"rows": rows, "seed": seed, "machine": platform.platform()}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        redis = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(MariaDbServer(durable=True))
        figures |= _planted(Path(folder), mariadb, redis, rows=rows, faults=faults, seed=seed)
        redis.client().flushall()
        figures["load"] = verify_under_load(Path(folder), mariadb, redis, runs=runs)
    figures["ok"] = figures["found"] == figures["planted"] and not figures["invented"]
    figures["ok"] = figures["ok"] and not figures["load"]["runs_with_findings"]
    json_path.parent.mkdir(parents=True, exist_ok=True)
    json_path.write_text(json.dumps(figures, indent=2))
    click.echo(f"{'PROVEN' if figures['ok'] else 'BROKEN'}. Figures: {json_path}")
    sys.exit(0 if figures["ok"] else EXIT_BROKEN)


def _planted(
    folder: Path, mariadb: MariaDbServer, redis: RedisServer, *, rows: int, faults: int, seed: int
) -> dict[str, Any]:
    with mariadb.database() as url:
        database = Database(url)
        migrate(database)
        client = redis.client()
        field = Field(database.engine, client, seed=seed)
        field.sow(rows)
        record(database, folder / "baseline")
        field.move(RQQueueManager(client, time_limit=time_limit, window=WINDOW))
        baseline = Baseline(folder / "baseline")

        def verify(*, in_database: bool = True) -> Report:
            wanted = Wanted(digests_in_database=in_database, patience=Patience(settle_seconds=0.5))
            reader = TicketReader(client)
            return Verifier(database, reader, LIMITS, baseline=baseline, wanted=wanted).run()

        figures = {"clean": _rates(verify), "planted": faults}
        planted = set(field.plant(faults))
        report = verify()
        database.dispose()
    found = {Planted(finding.fault.value, finding.key) for finding in report.findings}
    figures |= {"found": len(found & planted), "invented": len(found - planted)}
    figures |= {"classes": report.counts, "seconds_with_faults": round(report.seconds, 2)}
    click.echo(f"planted {faults:,} of {len(report.counts)} classes: found {figures['found']:,}")
    return figures


def _rates(verify: Any) -> dict[str, Any]:
    rates = {}
    for way, in_database in (("digests in the database", True), ("digests in this process", False)):
        report = verify(in_database=in_database)
        assert report.exit_code == 0, report.as_text()
        rates[way] = round(report.rows_per_second)
        click.echo(f"{way}: {report.rows:,} rows in {report.seconds:.2f} s, {report.rows_per_second:,.0f}/s")
    return rates


if __name__ == "__main__":
    main()
