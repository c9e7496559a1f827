"""Engine and transactions. `.commit(` stands in this file alone."""

import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import psycopg
import uuid_utils.compat
from psycopg.abc import PQGen
from psycopg.pq.abc import PGconn
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.orm import Session

from backtalk.outage import Outage

#: Limits that keep a request from hanging when Postgres is slow or away (milliseconds).
_SESSION_OPTIONS = (
    "-c timezone=UTC -c statement_timeout={statement_ms} -c lock_timeout={lock_ms} "
    "-c idle_in_transaction_session_timeout=60000"
)

#: A connection that rested longer is tried out before it is lent (seconds).
_RESTED_S = 1.0
_PING_S = 0.5

_WAKE_EVERY_S = 0.1  # psycopg's own: how often a wait looks up, such as for Ctrl-C

#: A machine that is gone, or a network that is, ends a statement after some seconds, not after two hours.
_TCP_OPTIONS = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 5000,  # milliseconds
}


class NoAnswer(psycopg.OperationalError):
    """The server said nothing in time. The connection is closed; the statement may have taken effect."""


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    pool_wait_s: float = 2.0,
    statement_timeout_s: float = 30.0,
    lock_timeout_s: float = 10.0,
    answer_timeout_s: float | None = None,
) -> Engine:
    """A pooled psycopg engine: waits 2 s for a new connection.

    Args:
        url: SQLAlchemy address of the database.
        pool_size: connections kept, and made at most.
        pool_wait_s: how long a caller waits for one of them.
        statement_timeout_s: the server breaks off what takes longer.
        lock_timeout_s: likewise for waiting on a lock.
        answer_timeout_s: a statement on which the server says nothing at all for so long ends in `NoAnswer`:
            the only timeout that a frozen server cannot miss. By default 5 s after the server's own.
    """
    answer_timeout_s = statement_timeout_s + 5.0 if answer_timeout_s is None else answer_timeout_s
    options = _SESSION_OPTIONS.format(
        statement_ms=int(statement_timeout_s * 1000), lock_ms=int(lock_timeout_s * 1000)
    )
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=pool_wait_s,
        connect_args={"connect_timeout": 2, "options": options} | _TCP_OPTIONS,
    )
    event.listen(engine, "do_connect", _connect_with(answer_timeout_s))
    event.listen(engine, "checkin", _note_rest)
    event.listen(engine, "checkout", _ping_after_rest)
    return engine


class _ImpatientConnection(psycopg.Connection[Any]):
    """Gives up on a server that does not answer. psycopg itself would wait for ever, and on a Unix socket, or
    where the kernel still acknowledges what a frozen process will never read, so would TCP.
    """

    answer_timeout_s: float | None = None

    def wait(self, gen: PQGen[Any], interval: float = _WAKE_EVERY_S, timeout: float | None = None) -> Any:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_timeout_s)
        except psycopg.errors._WaitTimeout as error:  # noqa: SLF001  # "callers should convert it"
            self.pgconn.finish()  # its state is unknown, and a ROLLBACK would have to wait as well
            raise NoAnswer(f"the database did not answer within {self.answer_timeout_s} s") from error


def _connect_with(answer_timeout_s: float) -> Callable[..., psycopg.Connection[Any]]:
    def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> psycopg.Connection[Any]:
        connection = _ImpatientConnection.connect(*args, **options)
        connection.answer_timeout_s = answer_timeout_s
        return connection

    return connect


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
_SILENCE = (NoAnswer, psycopg.errors.ConnectionTimeout)


class Database:
    """Hands out transactions over one engine.

    With `outage`, everything here raises OperationalError at once for a moment after a server fell silent.
    """

    def __init__(self, engine: Engine, outage: Outage | None = None) -> None:
        self.engine = engine
        self._autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._outage = outage

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back on any error."""
        with self._watch():
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
        with self._watch(), self._autocommit.connect() as connection:
            try:
                yield get_driver(connection)
            except psycopg.OperationalError:
                connection.invalidate()  # SQLAlchemy has not seen that it may be broken
                raise

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session whose changes are thrown away."""
        with self._watch():
            session = Session(self.engine, expire_on_commit=False)
            try:
                yield session
            finally:
                session.close()

    @contextmanager
    def _watch(self) -> Iterator[None]:
        if self._outage is None:
            yield
            return
        if self._outage.is_known():
            raise OperationalError("(not sent)", None, NoAnswer("the database has just not answered"))
        silent = False
        try:
            yield
        except (OperationalError, psycopg.OperationalError) as error:
            silent = isinstance(getattr(error, "orig", error), _SILENCE)
            raise
        finally:
            if silent:
                self._outage.note_silence()
            else:
                self._outage.note_answer()

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


def try_share(session: Session, purpose: str) -> bool:
    """Whether nobody holds `purpose` alone; if so, nobody can until the transaction ends."""
    return bool(
        session.scalar(
            text("SELECT pg_try_advisory_xact_lock_shared(hashtext(:purpose), 0)"), {"purpose": purpose}
        )
    )


def parse_id(value: str) -> UUID | None:
    """An id as somebody sent it; None where it cannot be one."""
    try:
        return UUID(value)
    except ValueError:
        return None


def get_plain_url(url: str) -> str:
    """The address as psycopg takes it, without SQLAlchemy's driver."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562): ordered by time, so that newest-first lists walk an index."""
    return uuid_utils.compat.uuid7()
