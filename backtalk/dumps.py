"""All tables as files, at one moment, by PostgreSQL's own binary COPY: no program but the driver is needed.

What is written is read back exactly, floats and embeddings too (PostgreSQL docs, COPY, binary format). The
schema is not in it: it is made by the migration whose revision is written down beside the tables.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from backtalk.db import get_plain_url
from backtalk.errors import BackupInvalid
from backtalk.progress import Report

_BLOCK = 2**20
_REVISIONS = "alembic_version"

_TABLES = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> %s
AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
GROUP BY c.relname ORDER BY c.relname
"""
_FOREIGN_KEYS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND connamespace = 'public'::regnamespace
"""


@dataclass(frozen=True)
class Dump:
    """What was written: the schema's revision, columns and rows by table, and how far sequences were."""

    revision: str
    tables: dict[str, dict[str, Any]]  # name → {"columns": […], "rows": n}
    sequences: dict[str, int]


def list_tables(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """Columns by table, of all that are ours."""
    return dict(connection.execute(_TABLES, [_REVISIONS]).fetchall())


def find_rows(connection: psycopg.Connection[Any]) -> str | None:
    """The name of a table that holds rows; none where the database is empty."""
    for table in list_tables(connection):
        query = sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(table))
        if connection.execute(query).fetchone() == (True,):
            return table
    return None


def dump_tables(connection: psycopg.Connection[Any], folder: Path, report: Report) -> Dump:
    """Write every table into `folder`.

    Args:
        connection: in a transaction that sees one moment (REPEATABLE READ).
    """
    folder.mkdir()
    connection.execute("SET LOCAL statement_timeout = 0")
    (revision,) = connection.execute(f"SELECT version_num FROM {_REVISIONS}").fetchone() or ("",)  # noqa: S608
    columns, written = list_tables(connection), {}
    for number, (table, names) in enumerate(columns.items()):
        report("tables", number, len(columns))
        rows = _copy_out(connection, table, names, folder / f"{table}.copy")
        written[table] = {"columns": names, "rows": rows}
    report("tables", len(columns), len(columns))
    sequences = connection.execute(
        "SELECT sequencename::text, last_value FROM pg_sequences"
        " WHERE schemaname = 'public' AND last_value IS NOT NULL"
    ).fetchall()
    return Dump(revision, written, dict(sequences))


def _copy_out(connection: psycopg.Connection[Any], table: str, columns: list[str], path: Path) -> int:
    query = sql.SQL("COPY {} ({}) TO STDOUT (FORMAT BINARY)").format(*_names(table, columns))
    with connection.cursor() as cursor, path.open("xb") as file:
        with cursor.copy(query) as copy:
            for block in copy:
                file.write(block)
        return cursor.rowcount


def load_tables(owner_url: str, dump: Dump, folder: Path, report: Report) -> None:
    """Fill the empty tables of a schema of the dump's revision: all of them, or none.

    Foreign keys are taken off and put on again, which proves that every row finds what it points to.

    Raises:
        BackupInvalid: a table is not there, or has another number of rows than the dump says.
    """
    with psycopg.connect(get_plain_url(owner_url), connect_timeout=5) as connection:
        missing = sorted(dump.tables.keys() - list_tables(connection).keys())
        if missing:
            raise BackupInvalid(f"The schema at revision {dump.revision} has no table {missing[0]}.")
        keys = connection.execute(_FOREIGN_KEYS).fetchall()
        for table, name, _ in keys:
            connection.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
        for number, (table, described) in enumerate(dump.tables.items()):
            report("tables", number, len(dump.tables))
            _fill(connection, table, described, folder / f"{table}.copy")
        for table, name, definition in keys:
            connection.execute(f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}')
        for sequence, value in dump.sequences.items():
            connection.execute("SELECT setval(%s::regclass, %s)", [f'public."{sequence}"', value])
        report("tables", len(dump.tables), len(dump.tables))


def _fill(connection: psycopg.Connection[Any], table: str, described: dict[str, Any], path: Path) -> None:
    """The triggers that refuse changes to what is there, or write down who made them, have no say here."""
    name = sql.Identifier(table)
    connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(*_names(table, described["columns"]))
    with connection.cursor() as cursor, path.open("rb") as file:
        with cursor.copy(query) as copy:
            while block := file.read(_BLOCK):
                copy.write(block)
        if cursor.rowcount != described["rows"]:
            raise BackupInvalid(f"{table} has {cursor.rowcount} rows, not {described['rows']}.")
    connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))


def _names(table: str, columns: list[str]) -> tuple[sql.Composable, sql.Composable]:
    return sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
