"""Real Postgres and Redis for every test that asks, started once per session in temporary folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

# A developer's own settings must not reach the tests. Before anything of Backtalk is imported.
for _name in [name for name in os.environ if name.startswith("BACKTALK_")]:
    del os.environ[_name]

from backtalk import schema  # noqa: E402
from backtalk.config import Settings  # noqa: E402
from backtalk.db import Database, make_engine  # noqa: E402
from backtalk.embedded import APPLICATION_ROLE  # noqa: E402
from backtalk.servers import PostgresServer, RedisServer  # noqa: E402
from backtalk.tables import Base  # noqa: E402
from tests.backbones import tiny_folder as tiny_folder  # noqa: E402, PLC0414

pytest_plugins = ("tests.faults.table",)  # its marker may stand on any test

_EMPTY_EVERY_TABLE = ";".join(f'DELETE FROM "{name}"' for name in Base.metadata.tables)


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Not pytest's own: that path is too long for a Unix socket, and Postgres's user must get there."""
    folder = Path(tempfile.mkdtemp(prefix="bt-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer.start(server_folder / "postgres", durable=False)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(server_folder: Path) -> Iterator[RedisServer]:
    server = RedisServer.start(server_folder / "redis")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_url(postgres_server: PostgresServer) -> str:
    url = postgres_server.create_database()
    schema.prepare(postgres_server.url(user=APPLICATION_ROLE), url)
    return url


@pytest.fixture
def owner_url(migrated_url: str) -> str:
    """Address of a migrated and empty database, for somebody with all rights on it."""
    with psycopg.connect(migrated_url.replace("+psycopg", ""), autocommit=True) as connection:
        # A connection that an earlier test left behind must neither hold rows nor write any more.
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute("SET session_replication_role = replica")  # no order to mind, nothing refused
        connection.execute(_EMPTY_EVERY_TABLE)
        connection.execute("SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'")
    return migrated_url


@pytest.fixture
def postgres_url(owner_url: str, postgres_server: PostgresServer) -> str:
    """The same database as every process but the migration sees it."""
    return postgres_server.url(user=APPLICATION_ROLE)


@pytest.fixture
def owner_database(owner_url: str) -> Iterator[Database]:
    """For tests that do what the application may not: tamper, or pretend another migration."""
    database = Database(make_engine(owner_url))
    yield database
    database.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of an empty Redis."""
    import redis

    with redis.Redis.from_url(redis_server.url()) as client:
        client.flushall()
    return redis_server.url()


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(make_engine(postgres_url, pool_size=10))
    yield database
    database.close()


@pytest.fixture
def settings(postgres_url: str, redis_server: RedisServer, tmp_path: Path) -> Settings:
    """Settings of an installation in a temporary folder."""
    return Settings(
        home=tmp_path / "home",
        database_url=postgres_url,
        redis_url=redis_server.url(),
        inference_threads=2,
    )


@pytest.fixture
def system(settings: Settings):  # type: ignore[no-untyped-def]  # the import is late on purpose
    from backtalk import bootstrap

    built = bootstrap.build(settings, pool_size=10)
    yield built
    built.close()
