"""How Alembic reaches the database: one transaction per migration, and never a long wait for a lock."""

import os
from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection, NullPool, create_engine, text

from backtalk import schema
from backtalk.config import Settings
from backtalk.tables import Base

#: Two processes that migrate at once take turns on this advisory lock.
_LOCK_KEY = 0x6261636B


def _url() -> str:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("BACKTALK_DATABASE_URL")
    if not url:
        raise SystemExit("Set BACKTALK_DATABASE_URL to the database that is to be migrated.")
    return Settings(database_url=url).database_url or url


def _run(connection: Connection) -> None:
    # A migration that waits for a lock makes all later queries on that table wait behind it: give up
    # soon instead. Waiting for another migrator is harmless, so that comes first and may take longer.
    with connection.begin():
        connection.execute(text("SET lock_timeout = '120s'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        connection.execute(text("SET lock_timeout = '5s'"))
        # Should this process be killed, the server would go on with its statement, and hold all its locks.
        connection.execute(text("SET client_connection_check_interval = '1s'"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transaction_per_migration=True,
        compare_server_default=True,
        on_version_apply=_note_oldest_code,
    )
    with context.begin_transaction():
        context.run_migrations()


def _note_oldest_code(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]
) -> None:
    """After each migration, in its transaction. Alembic names all four."""
    del step, run_args
    assert ctx.connection is not None  # SQL scripts are not made
    schema.note_oldest_code(ctx.connection, context.script, next(iter(heads), None))


def _run_on_own_engine() -> None:
    # No pool: the advisory lock goes with the connection, also where a migration fails.
    with create_engine(_url(), poolclass=NullPool).connect() as connection:
        _run(connection)


if context.is_offline_mode():
    raise SystemExit("Migrations run against a database; SQL scripts are not made.")
_run_on_own_engine()
