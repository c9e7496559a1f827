"""Engine and transactions. `.commit(` stands in this file alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session

#: Limits that keep a request from hanging when Postgres is slow or away (milliseconds).
_SESSION_OPTIONS = (
    "-c timezone=UTC -c statement_timeout={statement_ms} -c lock_timeout={lock_ms} "
    "-c idle_in_transaction_session_timeout=60000"
)


def make_engine(
    url: str, *, pool_size: int = 5, statement_timeout_s: float = 30.0, lock_timeout_s: float = 10.0
) -> Engine:
    """A pooled psycopg engine: waits 2 s for a connection of the pool, 3 s for the server."""
    options = _SESSION_OPTIONS.format(
        statement_ms=int(statement_timeout_s * 1000), lock_ms=int(lock_timeout_s * 1000)
    )
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 3, "options": options},
    )


class Database:
    """Hands out transactions over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back on any error."""
        session = Session(self.engine, expire_on_commit=False)
        try:
            yield session
            session.commit()
        finally:
            session.close()

    @contextmanager
    def statement(self) -> Iterator[Connection]:
        """A connection where each statement is a transaction of its own: no BEGIN and COMMIT to wait for."""
        with self._autocommit.connect() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session whose changes are thrown away."""
        session = Session(self.engine, expire_on_commit=False)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        self.engine.dispose()


def lock_model(session: Session, model_id: int, purpose: str) -> None:
    """Serialise `purpose` on one model until the transaction ends (advisory, so it blocks nobody else)."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtext(:purpose), :model)"),
        {"purpose": purpose, "model": model_id},
    )


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562): ordered by time, so that newest-first lists walk an index."""
    return uuid_utils.compat.uuid7()
