"""The embedded servers: they come back with their data, and never outlive whoever started them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from backtalk import servers
from backtalk.errors import Unavailable
from backtalk.servers import PostgresServer, RedisServer

START_BOTH = """
import sys, pathlib, time
from backtalk.servers import PostgresServer, RedisServer
folder = pathlib.Path(sys.argv[1])
postgres = PostgresServer.start(folder / "postgres", durable=False)
redis = RedisServer.start(folder / "redis")
print(postgres.process.pid, redis.process.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bt-") as name:
        yield Path(name)


def wait_until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


def test_rows_are_there_after_a_restart(folder: Path) -> None:
    server = PostgresServer.start(folder, durable=False)
    with connect(server.create_database()) as connection:
        connection.execute("CREATE TABLE kept (x int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    server.stop()
    assert is_gone(server.process.pid)
    server = PostgresServer.start(folder, durable=False)
    with connect(server.create_database()) as connection:
        assert connection.execute("SELECT x FROM kept").fetchall() == [(7,)]
    server.stop()


def test_a_home_with_a_long_path_works_too(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    server = PostgresServer.start(deep, durable=False)
    with connect(server.url("postgres")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    server.stop()
    assert not server.socket_folder.exists()


def test_postgres_listens_on_no_port(postgres_server: PostgresServer) -> None:
    process = psutil.Process(postgres_server.process.pid)
    assert [c for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN] == []


def test_queued_messages_are_there_after_a_restart(folder: Path) -> None:
    server = RedisServer.start(folder)
    with redis.Redis.from_url(server.url()) as client:
        client.rpush("queue", "message")
    server.stop()
    server = RedisServer.start(folder, port=server.port)
    with redis.Redis.from_url(server.url()) as client:
        assert client.lrange("queue", 0, -1) == [b"message"]
    server.stop()


def test_redis_lets_nobody_in_without_the_password(redis_server: RedisServer) -> None:
    with (
        redis.Redis(port=redis_server.port, retry=None) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()


def test_both_servers_die_with_a_killed_parent(folder: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", START_BOTH, str(folder)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids))
    # and the next one starts over what they left
    server = PostgresServer.start(folder / "postgres", durable=False)
    server.stop()


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    data = folder / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(Unavailable, match="did not start"):
        PostgresServer.start(folder)


def test_a_missing_redis_is_told_with_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="BACKTALK_REDIS_URL"):
        RedisServer.start(folder)
