"""Restores a backup into an empty system: files first, rows last, in one transaction."""

from pathlib import Path

import psycopg
from sqlalchemy import select

from backtalk import roles, schema
from backtalk.backupfiles import IMAGES, TABLES, VERSIONS, Copier, Description, check_sums
from backtalk.champions import rewrite_models_config
from backtalk.db import get_plain_url
from backtalk.dumps import find_rows, load_tables
from backtalk.errors import BackupInvalid, Conflict
from backtalk.progress import Report
from backtalk.sums import make_folder
from backtalk.system import System
from backtalk.tables import Image
from backtalk.tombstones import bury_images, lock_images

#: In the home while a restore goes on: what lies there then is its own, and may be replaced.
MARK = "restoring"
_REPORT_EVERY = 50  # files


def restore(system: System, owner_url: str, source: Path, report: Report) -> Description:
    """Bring back what `backups.back_up` wrote, after every byte of it was checked.

    A restore that broke off is begun again by the same call.

    Args:
        system: nothing runs on it. Its database is there, at this release's schema, and without rows.
        owner_url: of the same database, as the owner of the tables.

    Raises:
        BackupInvalid: the backup is not whole, was changed, or is of a later release.
        Conflict: there is something that would be mixed with it or lost.
    """
    description = Description.load(source)
    _check_revision(description)
    mark = system.settings.home.absolute() / MARK
    if not mark.exists():
        _refuse_unless_empty(system, owner_url)
    sums = check_sums(source, description, report)
    make_folder(mark.parent)
    mark.write_text(f"{source.absolute()}\n", encoding="utf-8")
    _copy_files(system, source, sums, report)
    _load(owner_url, description, source, report)
    schema.prepare(owner_url)
    database_url = system.settings.database_url or owner_url
    if roles.name_of(database_url) != roles.name_of(owner_url):
        roles.grant(owner_url, database_url)
    _bury_deleted(system, description)
    rewrite_models_config(system)
    mark.unlink()
    return description


def _check_revision(description: Description) -> None:
    if description.dump.revision not in schema.list_revisions():
        raise BackupInvalid(
            f"The backup was made by release {description.release}, whose schema is "
            f"{description.dump.revision}; this release does not know it. Install that one or a later one."
        )


def _refuse_unless_empty(system: System, owner_url: str) -> None:
    with psycopg.connect(get_plain_url(owner_url), connect_timeout=5) as connection:
        table = find_rows(connection)
    if table is not None:
        raise Conflict(
            f"The database is not empty ({table} has rows): restore into a new home or an empty database."
        )
    for folder in (system.images.root, system.versions.root):
        if any(path.is_file() for path in folder.rglob("*")):
            raise Conflict(f"{folder} is not empty: move it away, or restore into a new home.")


def _copy_files(system: System, source: Path, sums: dict[str, str], report: Report) -> None:
    roots = {IMAGES: system.images.root, VERSIONS: system.versions.root}
    wanted = [name for name in sums if name.split("/", 1)[0] in roots]
    for number, name in enumerate(wanted):
        if number % _REPORT_EVERY == 0:
            report("files", number, len(wanted))
        kind, below = name.split("/", 1)
        root = roots[kind]
        if not (root / below).resolve().is_relative_to(root.resolve()):
            raise BackupInvalid(f"{name!r} leads out of the backup.")
        if Copier(root).copy(source / name, below) != sums[name]:
            raise BackupInvalid(f"{name} changed while it was read.")
    report("files", len(wanted), len(wanted))


def _load(owner_url: str, description: Description, source: Path, report: Report) -> None:
    """Into the schema as it was when the dump was made; migrations go on from there."""
    schema.downgrade(owner_url)
    schema.upgrade(owner_url, description.dump.revision)
    load_tables(owner_url, description.dump, source / TABLES, report)


def _bury_deleted(system: System, description: Description) -> None:
    """What somebody deleted while the backup was made stays deleted."""
    keys = description.deleted_meanwhile
    with system.db.transaction() as session:
        found = list(session.scalars(select(Image.id).where(Image.store_key.in_(keys)))) if keys else []
        if found:
            bury_images(session, lock_images(session, found))
