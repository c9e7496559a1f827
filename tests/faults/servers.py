"""The session's Postgres and Redis, which a test may stop, kill and start again under the same address."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import redis

from backtalk.errors import Unavailable
from backtalk.servers import PostgresServer, RedisServer, free_port


class _Server:
    """What both have in common: a process that can be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def _launch(self) -> PostgresServer | RedisServer:
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers. After a kill the old processes may take a moment to go."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.server = self._launch()
                return
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    @property
    def pid(self) -> int:
        return self.server.process.pid

    @property
    def alive(self) -> bool:
        return self.server.process.poll() is None

    def stop(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        for process in self._all():
            process.suspend()

    def go_on(self) -> None:
        for process in self._all():
            with suppress(psutil.NoSuchProcess):  # a backend that has just ended
                process.resume()

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.process.wait()

    def mend(self) -> None:
        """As a test needs it at its beginning, whatever the one before did."""
        if self.alive:
            self.go_on()
        else:
            self.start()

    def _all(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


class Postgres(_Server):
    server: PostgresServer

    def _launch(self) -> PostgresServer:
        # Not durable, it would rightly forget commits when it is killed.
        return PostgresServer.start(self.folder, durable=True)

    def restart(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT is `pg_ctl -m immediate`, SIGINT is `fast`; back when it answers again."""
        self.shut_down(mode)
        self.start()

    def shut_down(self, mode: signal.Signals = signal.SIGQUIT) -> None:
        self.server.process.send_signal(mode)
        self.server.process.wait(30)

    def url(self, database: str) -> str:
        return self.server.url(database)

    def url_through(self, port: int, url: str) -> str:
        """The same database as in `url`, by a proxy's port."""
        name = url.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/{name}"

    @property
    def socket(self) -> Path:
        return self.server.socket_folder / ".s.PGSQL.5432"

    def run(self, statement: str) -> None:
        """One statement as the superuser, outside a transaction."""
        url = self.url("postgres").replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)  # type: ignore[call-overload]  # the tests' own words


class Redis(_Server):
    server: RedisServer

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        super().__init__(folder)

    def _launch(self) -> RedisServer:
        return RedisServer.start(self.folder, port=self._port)

    def restart(self) -> None:
        self.shut_down()
        self.start()

    def shut_down(self) -> None:
        self.server.stop()

    @property
    def url(self) -> str:
        return self.server.url()

    @property
    def port(self) -> int:
        return self._port

    def url_through(self, port: int) -> str:
        return self.url.replace(f":{self._port}/", f":{port}/")

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

    def flush(self) -> None:
        with self.client() as client:
            client.config_set("maxmemory", 0)
            client.flushall()


class Servers:
    """Both, for a session."""

    def __init__(self, folder: Path) -> None:
        self.postgres = Postgres(folder / "postgres")
        self.redis = Redis(folder / "redis")

    def target(self, name: str) -> tuple[str, int] | Path:
        """Where a proxy leads to."""
        return self.postgres.socket if name == "postgres" else ("127.0.0.1", self.redis.port)

    def mend(self) -> None:
        self.postgres.mend()
        self.redis.mend()

    def close(self) -> None:
        for server in (self.redis, self.postgres):
            server.go_on()
            server.server.stop()
