"""The schema of the database: bring it up to date, and say whether it is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.orm import Session

from backtalk.config import Settings

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


def downgrade(url: str, revision: str = "base") -> None:
    command.downgrade(configuration(url), revision)


def newest_revision() -> str:
    """The revision that this code was written for."""
    return ScriptDirectory(str(_FOLDER)).get_current_head() or ""


def find_revision(session: Session) -> str | None:
    """The revision that the database is at; none where it was never migrated."""
    return MigrationContext.configure(session.connection()).get_current_revision()


def main() -> None:
    """`python -m backtalk.schema` brings the database of the settings up to date."""
    url = Settings.load().database_url
    if url is None:
        raise SystemExit("Set BACKTALK_DATABASE_URL to the database that is to be migrated.")
    upgrade(url)


if __name__ == "__main__":
    main()
