"""`python -m tests.proof`: the verifier finds every planted fault, and none on live systems under load.

Both on MariaDB and Redis. First so many rows are recorded, moved and verified clean, which gives the rates;
then faults are planted among them. Then a system with workers, submissions, cancels and failures is
verified again and again while it runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import redis

from app.logs import configure_logging
from app.tasks.database import Database
from app.tasks.migrate import migrate
from app.tasks.tickets import RQQueueManager
from app.transfer.baseline import Baseline, record
from app.transfer.verification.report import Report
from app.transfer.verification.suspects import Patience
from app.transfer.verification.tickets import TicketReader
from app.transfer.verification.verifier import Verifier, Wanted
from tests.proof import report
from tests.proof.load import verify_under_load
from tests.proof.planting import LIMITS, Field, Planted, time_limit
from tests.servers import MariaDbServer, RedisServer
from tests.soak.report import write

EXIT_BROKEN = 1
WINDOW = 10**9
TIMES = 3  # each way of verifying


@click.command(help=__doc__)
@click.option("--rows", default=200_000, show_default=True, help="Rows of the field.")
@click.option("--faults", default=1_000, show_default=True, help="Faults planted in it.")
@click.option("--runs", default=20, show_default=True, help="Verifications under load.")
@click.option("--seed", default=1, show_default=True, help="Chooses the rows and what is planted where.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=Path("var/verify-proof.json"))
@click.option("--docs", is_flag=True, help="Write docs/verification.json, and docs/verification.md from it.")
def main(rows: int, faults: int, runs: int, seed: int, json_path: Path, docs: bool) -> None:
    configure_logging("error", json=False)
    figures: dict[str, Any] = report.circumstances() | {"rows": rows, "seed": seed}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        redis_server = stack.enter_context(RedisServer())
        mariadb = stack.enter_context(MariaDbServer(durable=True))
        figures |= _planted(Path(folder), mariadb, redis_server, rows=rows, faults=faults, seed=seed)
        redis_server.client().flushall()
        figures["load"] = verify_under_load(Path(folder), mariadb, redis_server, runs=runs)
    proven = report.is_proven(figures)
    write(figures, json_path)
    if docs:
        report.publish(figures)
    click.echo(f"{'PROVEN' if proven else 'BROKEN'}. Figures: {json_path}")
    sys.exit(0 if proven else EXIT_BROKEN)


def _planted(
    folder: Path, mariadb: MariaDbServer, redis_server: RedisServer, *, rows: int, faults: int, seed: int
) -> dict[str, Any]:
    with mariadb.database() as url:
        database = Database(url)
        migrate(database)
        client = redis_server.client()
        field = Field(database.engine, client, seed=seed)
        field.sow(rows)
        began = time.monotonic()
        record(database, folder / "baseline")
        recorded = rows / (time.monotonic() - began)
        field.move(RQQueueManager(client, time_limit=time_limit, window=WINDOW))
        baseline = Baseline(folder / "baseline")

        def verify(*, in_database: bool = True) -> Report:
            wanted = Wanted(digests_in_database=in_database, patience=Patience(settle_seconds=0.5))
            reader = TicketReader(client)
            return Verifier(database, reader, LIMITS, baseline=baseline, wanted=wanted).run()

        figures: dict[str, Any] = {
            "servers": _servers(database, client),
            "tickets": len(field.waiting),
            "planted": faults,
        }
        figures |= {"recorded_per_second": round(recorded), "baseline_bytes": _bytes(folder / "baseline")}
        figures |= {"clean": _rates(verify)}
        planted = set(field.plant(faults))
        named = verify()
        database.dispose()
    found = {Planted(finding.fault.value, finding.key) for finding in named.findings}
    figures |= {"found": len(found & planted), "invented": len(found - planted)}
    figures |= {"classes": dict(Counter(fault.fault for fault in planted))}
    click.echo(f"planted {faults:,} of {len(figures['classes'])} classes: found {figures['found']:,}")
    return figures


def _servers(database: Database, client: redis.Redis) -> str:
    mariadb = database.read(lambda on: on.exec_driver_sql("SELECT version()").scalar_one())
    info: Any = client.info("server")
    return f"MariaDB {mariadb.partition('-')[0]}, Redis {info['redis_version']}"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _rates(verify: Callable[..., Report]) -> dict[str, list[int]]:
    rates: dict[str, list[int]] = {}
    for way, in_database in (("digests by the database", True), ("`--digests process`", False)):
        for _ in range(TIMES):
            clean = verify(in_database=in_database)
            assert clean.exit_code == 0, clean.as_text()
            rates.setdefault(way, []).append(round(clean.rows_per_second))
        click.echo(f"{way}: rows a second {rates[way]}")
    return rates


if __name__ == "__main__":
    main()
