"""Migrations go up, down and up again, and make exactly what `tables.py` describes."""

import re
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from backtalk import audit, schema
from backtalk.db import Database
from backtalk.servers import PostgresServer

VERSIONS = Path(__file__).parents[2] / "migrations" / "versions"


@pytest.fixture
def fresh_url(postgres_server: PostgresServer, request: pytest.FixtureRequest) -> str:
    return postgres_server.create_database(f"fresh_{abs(hash(request.node.name))}")


def test_migrations_go_up_down_and_up_again(fresh_url: str) -> None:
    schema.upgrade(fresh_url)
    schema.downgrade(fresh_url)
    engine = create_engine(fresh_url)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    schema.upgrade(fresh_url)
    assert "ledger" in inspect(engine).get_table_names()
    engine.dispose()


def test_each_migration_goes_down_by_itself(fresh_url: str) -> None:
    schema.upgrade(fresh_url)
    for _ in range(len(list(VERSIONS.glob("0*.py")))):
        command.downgrade(schema.configuration(fresh_url), "-1")
        command.upgrade(schema.configuration(fresh_url), "+1")
        command.downgrade(schema.configuration(fresh_url), "-1")
    schema.upgrade(fresh_url)


def test_the_migrations_make_what_the_tables_describe(migrated_url: str) -> None:
    command.check(schema.configuration(migrated_url))


def test_two_upgrades_in_a_row_change_nothing(migrated_url: str) -> None:
    schema.upgrade(migrated_url)


def test_the_database_says_which_revision_it_is_at(database: Database, fresh_url: str) -> None:
    with database.reading() as session:
        assert schema.find_revision(session) == schema.newest_revision()
    empty = Database(create_engine(fresh_url))
    with empty.reading() as session:
        assert schema.find_revision(session) is None
    empty.close()


def test_migration_files_are_named_by_number_verb_and_object() -> None:
    names = [path.name for path in VERSIONS.glob("*.py") if path.name != "__init__.py"]
    assert names
    assert all(re.fullmatch(r"\d{4}_[a-z]+_[a-z_]+\.py", name) for name in names)


@pytest.mark.parametrize("statement", ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log"])
def test_append_only_tables_refuse_changes(owner_database: Database, statement: str) -> None:
    with owner_database.transaction() as session:
        audit.record(session, "user:alice", "user.sign-in", "user:alice")
    with pytest.raises(IntegrityError, match="append-only"), owner_database.transaction() as session:
        session.execute(text(statement))


@pytest.mark.parametrize("table", ["ledger", "decisions", "audit_log"])
def test_append_only_tables_cannot_be_truncated(owner_database: Database, table: str) -> None:
    with pytest.raises(IntegrityError, match="append-only"), owner_database.transaction() as session:
        session.execute(text(f"TRUNCATE {table} CASCADE"))
