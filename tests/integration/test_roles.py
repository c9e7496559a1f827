"""What the application's own role may do in the database, and what only the tables' owner may."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from backtalk import audit, roles, schema
from backtalk.config import Settings
from backtalk.db import Database, make_engine
from backtalk.embedded import APPLICATION_ROLE
from backtalk.errors import Unavailable
from backtalk.servers import PostgresServer
from backtalk.system import System
from tests import factories


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


@pytest.fixture
def application(postgres_url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Connected as the processes are, with one entry of each append-only table."""
    database = Database(make_engine(postgres_url))
    with database.transaction() as session:
        factories.make_decision(session, factories.make_model(session))
        audit.record(session, "user:alice", "key.revoke", "key:abc")
    database.close()
    with connect(postgres_url) as connection:
        yield connection


def test_tests_and_processes_connect_as_the_application(system: System) -> None:
    assert roles.name_of(system.settings.database_url or "") == APPLICATION_ROLE
    with system.db.reading() as session:
        assert session.connection().exec_driver_sql("SELECT current_user").scalar() == APPLICATION_ROLE


@pytest.mark.parametrize("table", roles.APPEND_ONLY)
@pytest.mark.parametrize(
    "statement",
    ["UPDATE {} SET actor = 'nobody'", "DELETE FROM {}", "TRUNCATE {} CASCADE", "DROP TABLE {} CASCADE"],
)
def test_the_application_cannot_change_the_past(
    application: psycopg.Connection[tuple[object, ...]], table: str, statement: str
) -> None:
    with pytest.raises(InsufficientPrivilege):
        application.execute(sql.SQL(statement).format(sql.Identifier(table)))


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE audit_log DISABLE TRIGGER refuse_change",
        "DROP TRIGGER refuse_change ON ledger",
        "SET session_replication_role = replica",
        "GRANT UPDATE ON audit_log TO CURRENT_USER",
        "SET ROLE postgres",
        "CREATE TABLE public.mine (id int)",
        "UPDATE alembic_version SET version_num = '0001'",
    ],
)
def test_the_application_cannot_give_itself_the_right_to(
    application: psycopg.Connection[tuple[object, ...]], statement: str
) -> None:
    if statement.startswith("GRANT"):  # Postgres only warns that nothing was granted
        application.execute(statement)
        may = application.execute("SELECT has_table_privilege('audit_log', 'UPDATE')").fetchone()
        assert may == (False,)
        return
    with pytest.raises(InsufficientPrivilege):
        application.execute(statement)


def test_the_application_can_use_every_other_table(owner_url: str, postgres_url: str) -> None:
    with connect(owner_url) as owner:
        tables = [
            str(name)
            for (name,) in owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
    with connect(postgres_url) as application:
        for table in set(tables) - {*roles.APPEND_ONLY, "alembic_version"}:
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
                found = application.execute("SELECT has_table_privilege(%s, %s)", [table, right]).fetchone()
                assert found == (True,), (table, right)


# --- other servers -------------------------------------------------------------------------------
@pytest.fixture
def urls(postgres_server: PostgresServer) -> Iterator[tuple[str, str]]:
    """An empty database's addresses: as its owner, and as a role that is not there yet."""
    owner_url = postgres_server.create_database("roles")
    application_url = postgres_server.url("roles", user="clerk").replace("clerk@", "clerk:s%40cret@")
    yield owner_url, application_url
    with connect(postgres_server.url("postgres")) as connection:
        connection.execute("DROP DATABASE roles")
        connection.execute("DROP ROLE IF EXISTS clerk, outsider")


def test_a_migration_makes_the_role_with_its_password_hashed(urls: tuple[str, str]) -> None:
    owner_url, application_url = urls
    schema.prepare(application_url, owner_url)
    with connect(owner_url) as owner:
        stored = owner.execute(
            "SELECT rolpassword, rolsuper FROM pg_authid WHERE rolname = 'clerk'"
        ).fetchone()
    assert stored is not None
    assert str(stored[0]).startswith("SCRAM-SHA-256$")
    assert stored[1] is False
    schema.prepare(application_url)  # at the newest revision nothing needs the owner
    schema.prepare(application_url, owner_url)


def test_a_role_that_may_not_migrate_says_what_to_do(urls: tuple[str, str]) -> None:
    owner_url, application_url = urls
    schema.upgrade(owner_url, "0005")
    roles_url = application_url
    with connect(owner_url) as owner:
        owner.execute("CREATE ROLE clerk LOGIN")
    with pytest.raises(Unavailable, match="backtalk migrate"):
        schema.prepare(roles_url)


def test_an_owner_who_may_not_make_roles_says_what_to_do(urls: tuple[str, str]) -> None:
    owner_url, application_url = urls
    with connect(owner_url) as owner:
        owner.execute("CREATE ROLE outsider LOGIN")
    schema.upgrade(owner_url)
    outsider_url = owner_url.replace("postgres@", "outsider@")
    with pytest.raises(Unavailable, match='CREATE ROLE "clerk"'):
        roles.grant(outsider_url, application_url)


def test_the_owners_address_is_a_setting_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKTALK_MIGRATION_URL", "postgres://owner@db/backtalk")
    assert Settings.load().migration_url == "postgresql+psycopg://owner@db/backtalk"
