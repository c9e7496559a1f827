"""The one-machine stack: servers, API, workers, beat and relay under one process. `backtalk up`."""

import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TextIO

from backtalk import certificates, schema
from backtalk.children import start_child
from backtalk.config import Settings
from backtalk.errors import Unavailable
from backtalk.home import StackInfo, find_stack, hold, remove_stack, write_stack
from backtalk.servers import PostgresServer, RedisServer, free_port
from backtalk.states import RunKind
from backtalk.supervisor import Service, Supervisor

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 12.0
#: At a desk nobody waits a minute for Ctrl-C; what a worker leaves undone is taken up again.
WORKER_GRACE_S = 5.0
#: Whom every process of the stack is to the embedded Postgres; migrations run as its owner.
APPLICATION_ROLE = "backtalk"
#: What the stack's processes never get: with it they could change what is append-only.
OWNERS = ("BACKTALK_MIGRATION_URL", "BACKTALK_MIGRATION_URL_FILE")
API_GRACE_S = 8.0


class StopAsked(Exception):
    """SIGINT or SIGTERM came while the stack was starting."""


class Stack:
    """Everything that `up` runs. `open_stack` makes one, holds its home and ends it."""

    def __init__(self, settings: Settings, supervisor: Supervisor) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self._servers = 0  # how many services the others stand on
        self._postgres: PostgresServer | None = None
        self._stop_asked = False

    @property
    def home(self) -> Path:
        return self.settings.home.absolute()

    @property
    def address(self) -> str:
        host = self.settings.api_host
        everywhere = host in {"0.0.0.0", "::"}  # noqa: S104  # compared, not bound
        scheme = "http" if self.settings.tls_cert is None else "https"
        return f"{scheme}://{'127.0.0.1' if everywhere else host}:{self.settings.api_port}"

    def start(self) -> StackInfo:
        """Start all parts and wait until the API is ready.

        Raises:
            InvalidCertificate: TLS is asked for, with files that are not fit for it.
            Unavailable: a part ended or did not become ready; the message says which, and what it said last.
            StopAsked: a signal came first.
        """
        if self.settings.tls_cert is not None and self.settings.tls_key is not None:
            for warning in certificates.check_pair(self.settings.tls_cert, self.settings.tls_key):
                self.supervisor.say("up", warning)
        database_url, migration_url = self._find_database()
        redis_url = self.settings.redis_url or self._start_redis()
        self.supervisor.say("up", "migrating the database")
        schema.prepare(database_url, migration_url)
        info = StackInfo(
            pid=os.getpid(),
            address=self.address,
            database_url=database_url,
            migration_url=migration_url,
            redis_url=redis_url,
            store=str(self.settings.store_path),
            images=str(self.settings.images_path),
        )
        write_stack(self.home, info)
        for name, command in commands().items():
            self._check_asked()
            self.supervisor.start(_service(name, command, self._environment(info)))
        self._wait_until_ready()
        return info

    def watch(self) -> None:
        """Show the log and start again what dies, until SIGINT or SIGTERM."""
        while not self._stop_asked:
            self.supervisor.listen(0.5)
            self.supervisor.restart_dead()

    def stop(self) -> None:
        """End all parts, the servers last."""
        remove_stack(self.home)
        self._stop_asked = True  # from now on a signal kills what is left
        self.supervisor.stop(STOP_TIMEOUT_S, first=self._servers)
        if self._postgres is not None:
            self._postgres.stop()  # its process is gone; it may have a folder for its socket

    def note_signal(self, _number: int, _frame: FrameType | None) -> None:
        """Ask for the end; when that is asked for already, kill. Nothing is interrupted half-way."""
        if self._stop_asked:
            self.supervisor.kill()
        self._stop_asked = True

    def _find_database(self) -> tuple[str, str | None]:
        """The database's address as the application, and as the owner of its tables."""
        if self.settings.database_url is not None:
            return self.settings.database_url, self.settings.migration_url
        server = self._start_postgres()
        owner_url = server.create_database()
        return server.url(user=APPLICATION_ROLE), owner_url

    def _start_postgres(self) -> PostgresServer:
        def start(output: int) -> subprocess.Popen[bytes]:
            self._postgres = PostgresServer.start(self.home / "postgres", output=output)
            return self._postgres.process

        self.supervisor.start(Service("postgres", start, stop_signal=signal.SIGINT))
        self._servers += 1
        assert self._postgres is not None
        return self._postgres

    def _start_redis(self) -> str:
        started: list[RedisServer] = []

        def start(output: int) -> subprocess.Popen[bytes]:
            port = started[-1].port if started else None  # clients know the first one
            started.append(RedisServer.start(self.home / "redis", output=output, port=port))
            return started[-1].process

        self.supervisor.start(Service("redis", start))
        self._servers += 1
        return started[-1].url()

    def _environment(self, info: StackInfo) -> dict[str, str]:
        ours = {
            "BACKTALK_HOME": str(self.home),
            "BACKTALK_DATABASE_URL": info.database_url,
            "BACKTALK_REDIS_URL": info.redis_url,
            "BACKTALK_STORE": info.store,
            "BACKTALK_IMAGES": info.images,
            "BACKTALK_API_HOST": self.settings.api_host,
            "BACKTALK_API_PORT": str(self.settings.api_port),
            "PYTHONUNBUFFERED": "1",
            "REMAP_SIGTERM": "SIGQUIT",  # Celery: SIGTERM ends a worker in bounded time
        }
        if self.settings.tls_cert is not None and self.settings.tls_key is not None:
            ours["BACKTALK_TLS_CERT"] = str(self.settings.tls_cert.absolute())
            ours["BACKTALK_TLS_KEY"] = str(self.settings.tls_key.absolute())
        graces = {
            "BACKTALK_WORKER_GRACE_S": str(WORKER_GRACE_S),
            "BACKTALK_API_GRACE_S": str(API_GRACE_S),
        }
        inherited = {name: value for name, value in os.environ.items() if name not in OWNERS}
        return graces | inherited | ours

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _is_ready(self.address):
            self._check_asked()
            self.supervisor.listen(0.2)
            self.supervisor.check_alive()
            if time.monotonic() > deadline:
                raise Unavailable(f"The API was not ready after {READY_TIMEOUT_S:.0f} s; its log says why.")

    def _check_asked(self) -> None:
        if self._stop_asked:
            raise StopAsked


@contextmanager
def open_stack(settings: Settings, screen: TextIO = sys.stdout) -> Iterator[Stack]:
    """A stack on `settings.home`, not yet started; ended with the block, whatever happens in it.

    Raises:
        HomeTaken: another stack runs there.
    """
    if settings.api_port == 0:
        settings = settings.model_copy(update={"api_port": free_port(settings.api_host)})
    home = settings.home.absolute()
    with ExitStack() as closing:
        closing.enter_context(hold(home, "backtalk up"))
        log = closing.enter_context((home / "stack.log").open("w", encoding="utf-8"))
        stack = Stack(settings, Supervisor(log, screen))
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            closing.callback(signal.signal, name, signal.signal(name, stack.note_signal))
        closing.callback(stack.stop)
        yield stack


@contextmanager
def reach(settings: Settings, purpose: str) -> Iterator[Settings]:
    """Settings with a database that answers and is up to date: the configured one, that of the stack which
    runs on this home, or an embedded Postgres for the time of the block.

    Raises:
        HomeTaken: another command is just using this home's Postgres.
    """
    if settings.database_url is not None:
        schema.prepare(settings.database_url, settings.migration_url)
        yield settings
    elif stack := find_stack(settings.home.absolute()):
        yield stack.settings(settings.home)
    else:
        with hold(settings.home.absolute(), purpose):
            postgres = PostgresServer.start(settings.home.absolute() / "postgres")
            try:
                owner_url = postgres.create_database()
                urls = {"database_url": postgres.url(user=APPLICATION_ROLE), "migration_url": owner_url}
                schema.prepare(**urls)
                yield settings.model_copy(update=urls)
            finally:
                postgres.stop()


def commands() -> dict[str, list[str]]:
    """The processes of DESIGN section 3 by name; trainers are children of the training workers."""
    python = [sys.executable, "-m"]
    # Where all runs as root already, Celery's warning about it helps nobody.
    celery = [sys.executable, "-W", "ignore:You're running the worker", "-m", "celery", "--quiet"]
    worker = [*celery, "-A", "workers.app", "worker", "--without-mingle", "--without-gossip"]
    head, full = (f"training-{kind}" for kind in (RunKind.HEAD, RunKind.FULL))
    return {
        "api": [*python, "gunicorn", "-c", "python:services.gunicorn_conf"],
        "events": [*worker, "-Q", "events,ticks", "-n", "events@%h", "-c", "2"],
        head: [*worker, "-Q", head, "-n", f"{head}@%h", "-c", "1"],
        full: [*worker, "-Q", full, "-n", f"{full}@%h", "-c", "1"],
        "beat": [*celery, "-A", "workers.beat", "beat"],
        "relay": [*python, "workers.relay"],
    }


def _service(name: str, command: list[str], environment: dict[str, str]) -> Service:
    def start(output: int) -> subprocess.Popen[bytes]:
        # Killed, not asked: where `up` was killed Redis goes too, and a Celery worker that is asked to stop
        # then waits for it without end. What it was doing is a row, and its lease runs out.
        return start_child(command, death_signal=signal.SIGKILL, env=environment, output=output)

    return Service(name, start)


def _is_ready(address: str) -> bool:
    try:
        # Its certificate names the machine as others call it, not the loopback; nothing is told to it here.
        ours = ssl.create_default_context()
        ours.check_hostname, ours.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(f"{address}/readyz", timeout=2, context=ours) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
