"""The least that a durable start costs on this machine: the drivers' own calls, and no task system at all.

A row is inserted and committed, its number pushed to a list in Redis; a process that waits there pops it,
claims the row and commits; then its first line runs. What a latency has above this is the system's own.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from typing import Any

import redis
from sqlalchemy import create_engine

from benchmarks.arena import Site
from benchmarks.ours import IDLE_SECONDS, ROOT
from benchmarks.peers import PAYLOAD
from benchmarks.results import percentile
from benchmarks.stamps import Stamps, stamp

LIST = "floor"
TABLE = "CREATE TABLE floor (id BIGINT PRIMARY KEY, status VARCHAR(12), payload VARCHAR(500))"


def floor(site: Site, count: int) -> dict[str, float]:
    """Milliseconds from before the INSERT to the first line, after idle gaps as `ours.latency` has them."""
    cursor, mark = connect(site.database_url)
    cursor.execute(TABLE)
    client: Any = redis.Redis.from_url(site.redis_url)
    command = [sys.executable, "-m", "benchmarks.floor", site.database_url, site.redis_url]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT)}
    claimer = subprocess.Popen(command, cwd=site.folder, env=environment)
    stamps, found = Stamps(site.folder), []
    try:
        for number in range(count + 1):
            time.sleep(random.uniform(*IDLE_SECONDS))
            began = time.monotonic_ns()
            values = (number, "QUEUED", str(PAYLOAD))
            cursor.execute(f"INSERT INTO floor VALUES ({mark}, {mark}, {mark})", values)
            client.rpush(LIST, number)
            stamps.wait_for(number + 1, deadline_seconds=30)
            found.append((stamps.since(number)[0][0] - began) / 1e6)
    finally:
        claimer.terminate()
        claimer.wait(10)
        client.close()
    return {"floor_p50": percentile(found[1:], 50), "floor_p99": percentile(found[1:], 99)}


def connect(url: str) -> tuple[Any, str]:
    """A cursor of the driver's own that commits each statement, and the driver's mark for a value."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    connection = engine.raw_connection()
    connection.detach()
    return connection.cursor(), "?" if url.startswith("sqlite") else "%s"


def main(database_url: str, redis_url: str) -> None:
    """Pop, claim, stamp; until it is told to stop."""
    cursor, mark = connect(database_url)
    client: Any = redis.Redis.from_url(redis_url)
    while True:
        _, number = client.blpop([LIST])
        cursor.execute(f"UPDATE floor SET status = 'PROCESSING' WHERE id = {mark}", (int(number),))
        stamp()


if __name__ == "__main__":
    main(*sys.argv[1:])
