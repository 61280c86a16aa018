"""pgqueuer over asyncpg: processes that take 100 jobs at a time (its default is 10), tables with their
default durability."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pgqueuer

from benchmarks.peers import PAYLOAD, Peer, Place
from benchmarks.peers.measure import place_here
from benchmarks.stamps import stamp

ENTRYPOINT = "noop"
BATCH_SIZE = 100


@asynccontextmanager
async def manager() -> AsyncIterator[pgqueuer.PgQueuer]:
    """What `pgqueuer run` runs."""
    connection = await asyncpg.connect(place_here().postgres_url)
    queuer = pgqueuer.PgQueuer.from_asyncpg_connection(connection)

    @queuer.entrypoint(ENTRYPOINT)
    async def noop(job: pgqueuer.Job) -> None:
        json.loads(job.payload or b"null")
        stamp()

    try:
        yield queuer
    finally:
        await connection.close()


class PgQueuer(Peer):
    has_bulk = True

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.loop = asyncio.new_event_loop()
        self.connection = self.loop.run_until_complete(asyncpg.connect(place.postgres_url))
        self.queries = pgqueuer.Queries(pgqueuer.AsyncpgDriver(self.connection))

    def prepare(self) -> None:
        self.loop.run_until_complete(self.queries.install())

    def commands(self, workers: int) -> Sequence[list[str]]:
        # not by its command line, whose `run` fails with the typer of today
        return [[sys.executable, "-m", "benchmarks.peers.on_pgqueuer"]] * workers

    def submit(self, count: int) -> None:
        async def send() -> None:
            for _ in range(count):
                await self.queries.enqueue(ENTRYPOINT, json.dumps(PAYLOAD).encode())

        self.loop.run_until_complete(send())

    def submit_bulk(self, count: int) -> None:
        payloads = [json.dumps(PAYLOAD).encode() for _ in range(count)]
        sending = self.queries.enqueue([ENTRYPOINT] * count, list(payloads), [0] * count)
        self.loop.run_until_complete(sending)

    def close(self) -> None:
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()


if __name__ == "__main__":
    asyncio.run(pgqueuer.run(manager, batch_size=BATCH_SIZE))
