"""The schema of the database: bring it up to date, and say whether this code can work with it.

A migration that only adds says `expand = True`: code written for the schema before it goes on working beside
it, so old processes serve until new ones take over. Each migration notes, in its own transaction, the oldest
code that the schema still bears; that is how old code, which does not know the migration, finds out.
"""

import re
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from backtalk import roles
from backtalk.config import Settings
from backtalk.errors import Unavailable

_FOLDER = Path(__file__).parent.parent / "migrations"
_NOTE = "oldest code: {}"


def configuration(url: str) -> Config:
    """Alembic's configuration for one database, whatever the working directory."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Apply what is missing, each migration in a transaction of its own. Two callers take turns."""
    command.upgrade(configuration(url), revision)


def prepare(database_url: str, migration_url: str | None = None) -> None:
    """Bring the schema up to date, and the rights of the application's role with it.

    Args:
        database_url: as the application's role.
        migration_url: as the owner of the tables, where that is another role.

    Nothing is done to a schema that is ahead of this code, and bears it.

    Raises:
        Unavailable: the schema is not this code's, and no role at hand may change it; or it is a newer one's.
    """
    try:
        upgrade(migration_url or database_url)
    except CommandError:
        misfit = _ask_for_misfit(migration_url or database_url)
        if misfit is not None:
            raise Unavailable(f"This release cannot work with that database: {misfit}.") from None
        return
    except ProgrammingError as error:
        if not isinstance(error.orig, InsufficientPrivilege):
            raise
        name = roles.name_of(migration_url or database_url)
        raise Unavailable(
            f"The database's schema is not the one that this release needs, and the role {name!r} may not "
            "change it. Run `backtalk migrate` with BACKTALK_MIGRATION_URL naming the tables' owner."
        ) from None
    if migration_url is not None and roles.name_of(migration_url) != roles.name_of(database_url):
        roles.grant(migration_url, database_url)


def downgrade(url: str, revision: str = "base") -> None:
    command.downgrade(configuration(url), revision)


def newest_revision() -> str:
    """The revision that this code was written for."""
    return ScriptDirectory(str(_FOLDER)).get_current_head() or ""


@cache
def list_revisions() -> tuple[str, ...]:
    """Every revision that this code can upgrade from, newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions())


def find_revision(session: Session) -> str | None:
    """The revision that the database is at; none where it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def find_misfit(session: Session) -> str | None:
    """Why this code cannot work with the schema; None where it can: it is the code's own, or ahead of it and
    has since only been added to."""
    found, newest = find_revision(session), newest_revision()
    if found == newest:
        return None
    if found is None or found in list_revisions():
        return f"the database is at migration {found}, the code at {newest}"
    oldest = _find_oldest_code(session)
    if oldest in list_revisions():
        return None
    return f"the database is at migration {found} and needs code of {oldest} or later, this is of {newest}"


def note_oldest_code(connection: Connection, script: ScriptDirectory, revision: str | None) -> None:
    """Write down, with the schema that has just become `revision`, whose code can work with it."""
    oldest = revision
    for step in script.walk_revisions("base", revision) if revision else ():
        oldest = step.revision
        if not getattr(step.module, "expand", False):
            break
    connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{_NOTE.format(oldest)}'"))


def _find_oldest_code(session: Session) -> str | None:
    note = session.scalar(text("SELECT obj_description('alembic_version'::regclass, 'pg_class')"))
    found = re.fullmatch(_NOTE.format(r"(\w+)"), note or "")
    return found[1] if found else None


def _ask_for_misfit(url: str) -> str | None:
    with Session(create_engine(url, poolclass=NullPool)) as session:
        return find_misfit(session)


def main() -> None:
    """`python -m backtalk.schema` brings the database of the settings up to date."""
    settings = Settings.load()
    if settings.database_url is None:
        raise SystemExit("Set BACKTALK_DATABASE_URL to the database that is to be migrated.")
    try:
        prepare(settings.database_url, settings.migration_url)
    except Unavailable as error:
        raise SystemExit(error.message) from None


if __name__ == "__main__":
    main()
