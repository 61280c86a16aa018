"""One run on several hosts, which share a database and a Redis and nothing else."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from app.tasks.model import Status
from app.tasks.submission import TaskRequest
from tests.acceptance.conftest import StackMaker
from tests.acceptance.hosts import network
from tests.acceptance.relatives import told
from tests.servers import MariaDbServer, RedisServer
from tests.waiting import wait_until

TABLES, WORKERS = 20, 2
MODULES = "app.handlers,tests.acceptance.relatives"
DEADLINE = 120.0


@pytest.mark.mariadb
@pytest.mark.redis
@pytest.mark.timeout(300)
def test_003_02_workers_on_three_hosts_share_the_tables_of_one_run_and_none_is_run_twice(
    make_stack: StackMaker, tmp_path: Path
) -> None:
    with (
        network(3) as net,
        MariaDbServer(also_on=net.address) as database,
        RedisServer(also_on=net.address) as redis,
    ):
        database.execute("CREATE USER traveller@'10.%'")
        database.execute("GRANT ALL ON *.* TO traveller@'10.%'")
        url = database.create_database().replace("root@127.0.0.1", f"traveller@{net.address}")
        stack = make_stack(url, redis.url.replace("127.0.0.1", net.address), TASK_MODULES=MODULES)
        for host in net.hosts:
            bound = ("--bound-to", str(os.getpid()))
            words = host.command("-m", "workers", "--workers", str(WORKERS), *bound)
            stack.start(*words, log_name=host.name, settings={"VAR_DIR": tmp_path / host.name})
        names = [host.name for host in net.hosts]
        wait_until(
            lambda: Counter(row.host for row in stack.workers()) == dict.fromkeys(names, WORKERS),
            deadline_seconds=DEADLINE,
            what=lambda: f"workers on all hosts: {stack.workers()}; log: {stack.log('host1')}",
        )
        payload = {"path": str(stack.ledger_file), "tables": TABLES, "hosts": names}
        parent = stack.system.queue.submit(TaskRequest("relatives.travellers", payload)).task_id
        stack.wait_until_ended(1 + TABLES, deadline_seconds=DEADLINE)
        run = stack.system.store.queries.task(parent)
        assert run.status is Status.COMPLETED
        assert set(run.result.values()) == set(names), "every host has had its share"
        begun = Counter(name for _, what, name in told(stack.ledger_file))
        assert begun == {f"table {number}": 1 for number in range(TABLES)}
        stack.close()
