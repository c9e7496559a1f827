"""The application's role in Postgres: it works on rows, and can neither change the schema nor the past."""

from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql

from backtalk.db import get_plain_url
from backtalk.errors import Unavailable

#: Tables that nobody but their owner can change or delete in.
APPEND_ONLY = ("ledger", "decisions", "audit_log")
_READ_ONLY = ("alembic_version",)


def name_of(url: str) -> str:
    """The role in a database's address."""
    return unquote(urlsplit(url).username or "")


def grant(owner_url: str, application_url: str) -> None:
    """Give the application's role its rights on all tables that are there now, making it if it is missing.

    Args:
        owner_url: as the owner of the tables.
        application_url: as the role that every process but the migration uses.

    Raises:
        Unavailable: the role is missing and the owner may not make it.
    """
    role = name_of(application_url)
    with psycopg.connect(get_plain_url(owner_url), connect_timeout=5) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchone() is None:
            _make(connection, role, unquote(urlsplit(application_url).password or ""))
        for statement in _RIGHTS:
            connection.execute(sql.SQL(statement).format(role=sql.Identifier(role)))
        for table in (*APPEND_ONLY, *_READ_ONLY):
            rights = "UPDATE, DELETE" if table in APPEND_ONLY else "INSERT, UPDATE, DELETE"
            connection.execute(
                sql.SQL("REVOKE " + rights + " ON {table} FROM {role}").format(
                    table=sql.Identifier(table), role=sql.Identifier(role)
                )
            )


_RIGHTS = (
    "GRANT USAGE ON SCHEMA public TO {role}",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
)


def _make(connection: psycopg.Connection[tuple[object, ...]], role: str, password: str) -> None:
    secret: sql.Composable = sql.SQL("")
    if password:
        # Hashed here: the statement may end up in the server's log.
        hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
        secret = sql.SQL(" PASSWORD {}").format(sql.Literal(hashed.decode()))
    try:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE{}").format(
                sql.Identifier(role), secret
            )
        )
    except psycopg.errors.InsufficientPrivilege:
        raise Unavailable(
            f"There is no role {role!r}, which BACKTALK_DATABASE_URL names, and the owner may not make one. "
            f"Let an administrator run: CREATE ROLE \"{role}\" LOGIN PASSWORD '…'"
        ) from None
