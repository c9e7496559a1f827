"""The schema of the database: bring it up to date, and say whether it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import InsufficientPrivilege
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from backtalk import roles
from backtalk.config import Settings
from backtalk.errors import Unavailable

_FOLDER = Path(__file__).parent.parent / "migrations"


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

    Raises:
        Unavailable: the schema is not this code's, and no role at hand may change it.
    """
    try:
        upgrade(migration_url or database_url)
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


def list_revisions() -> list[str]:
    """Every revision that this code can upgrade from, newest first."""
    return [script.revision for script in ScriptDirectory(str(_FOLDER)).walk_revisions()]


def find_revision(session: Session) -> str | None:
    """The revision that the database is at; none where it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()


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
