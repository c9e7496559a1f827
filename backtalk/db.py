"""Engine and transactions. `.commit(` stands in this file alone."""

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import psycopg
import uuid_utils.compat
from psycopg.pq.abc import PGconn
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.orm import Session

#: Limits that keep a request from hanging when Postgres is slow or away (milliseconds).
_SESSION_OPTIONS = (
    "-c timezone=UTC -c statement_timeout={statement_ms} -c lock_timeout={lock_ms} "
    "-c idle_in_transaction_session_timeout=60000"
)

#: A connection that rested longer is tried out before it is lent (seconds).
_RESTED_S = 1.0
_PING_S = 1.0

#: A machine that is gone, or a network that is, ends a statement after some seconds, not after two hours.
_TCP_OPTIONS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,  # milliseconds
}


def make_engine(
    url: str, *, pool_size: int = 5, statement_timeout_s: float = 30.0, lock_timeout_s: float = 10.0
) -> Engine:
    """A pooled psycopg engine: waits 2 s for a connection of the pool, 2 s for the server."""
    options = _SESSION_OPTIONS.format(
        statement_ms=int(statement_timeout_s * 1000), lock_ms=int(lock_timeout_s * 1000)
    )
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=2,
        connect_args={"connect_timeout": 2, "options": options} | _TCP_OPTIONS,
    )
    event.listen(engine, "checkin", _note_rest)
    event.listen(engine, "checkout", _ping_after_rest)
    return engine


def _note_rest(_connection: Any, record: Any) -> None:
    record.info["rests_since"] = time.monotonic()


def _ping_after_rest(connection: Any, record: Any, _proxy: Any) -> None:
    """Find out that the server went away before the caller does, at no cost to a busy process (SQLAlchemy's
    own `pool_pre_ping` doubles the round trips of a prediction). Raising makes the pool connect anew."""
    rests_since = record.info.get("rests_since", float("inf"))
    rested = time.monotonic() - rests_since > _RESTED_S
    if connection.closed or (rested and not _answers(connection.pgconn)):
        raise InvalidatePoolError


def _answers(server: PGconn) -> bool:
    """Whether the server answers an empty query in time; one that froze would keep psycopg waiting."""
    until = time.monotonic() + _PING_S
    waiting = select.poll()
    try:
        waiting.register(server.socket, select.POLLIN)
        server.send_query(b"")
        server.flush()
        while True:
            while not server.is_busy():
                if server.get_result() is None:
                    return True
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                return False
            server.consume_input()
    except psycopg.Error:
        return False


_LAST_ACTS = "backtalk-last-acts"


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
            finish(session)
            session.commit()
        finally:
            session.close()

    @contextmanager
    def statement(self) -> Iterator[psycopg.Connection[Any]]:
        """The driver's own connection, where each statement is a transaction of its own.

        For the one statement that runs with each prediction: no BEGIN and COMMIT to wait for, and none of
        SQLAlchemy's work around it.
        """
        with self._autocommit.connect() as connection:
            try:
                yield get_driver(connection)
            except psycopg.OperationalError:
                connection.invalidate()  # SQLAlchemy has not seen that it may be broken
                raise

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


def get_driver(connection: Connection) -> psycopg.Connection[Any]:
    """What SQLAlchemy drives, in the same transaction."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def run_last(session: Session, act: Callable[[Session], None]) -> None:
    """Run `act` when everything else of the transaction is done, just before its commit.

    For what takes a lock that all transactions share: held so shortly, and always taken last, it makes
    nobody wait for long and nobody wait in a circle.
    """
    session.info.setdefault(_LAST_ACTS, []).append(act)


def finish(session: Session) -> None:
    """Do what `run_last` put off; the next thing is the commit."""
    session.flush()
    for act in session.info.pop(_LAST_ACTS, ()):
        act(session)


def lock_model(session: Session, model_id: int, purpose: str) -> None:
    """Serialise `purpose` on one model until the transaction ends (advisory, so it blocks nobody else)."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtext(:purpose), :model)"),
        {"purpose": purpose, "model": model_id},
    )


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562): ordered by time, so that newest-first lists walk an index."""
    return uuid_utils.compat.uuid7()
