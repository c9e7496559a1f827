"""Makes backups of a system that goes on working.

What belongs together is found in one look at the database, and copied after it. Rows name files that are
there already (an image is written before its row, an artefact before its version), so the look names nothing
that is still to come. What it names must not go before it is copied: while a backup runs upkeep removes
nothing. Images that somebody deletes by hand meanwhile are gone from the backup, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import __version__
from backtalk.backbone_use import find_used
from backtalk.backupfiles import IMAGES, TABLES, VERSIONS, Copier, Description
from backtalk.champions import locate
from backtalk.db import get_driver
from backtalk.dumps import dump_tables
from backtalk.errors import BackupInvalid, Conflict, ImageNotFound
from backtalk.progress import Report
from backtalk.removals import FILES
from backtalk.system import System
from backtalk.tables import Image, Model, Version

_REPORT_EVERY = 50  # files


@dataclass(frozen=True)
class _Named:
    """What the rows of one moment name in the stores."""

    images: list[str]
    versions: list[Version]
    backbones: list[str]
    models: list[str]


def back_up(system: System, target: Path, report: Report) -> Description:
    """Write a backup into an empty or new folder; the system may go on working.

    Raises:
        Conflict: the folder holds something.
        BackupInvalid: the database's connection broke meanwhile, or an image in the store is damaged.
    """
    if target.exists() and any(target.iterdir()):
        raise Conflict(f"{target} is not empty: name a new folder for the backup.")
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o700)  # hashes of keys and passwords are in it
    with _nothing_removed(system):
        with system.db.reading() as session:
            connection = session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            named = _list_named(session)  # the first statement: this is the moment
            dump = dump_tables(get_driver(connection), target / TABLES, report)
        description = Description(datetime.now(UTC).isoformat(timespec="seconds"), __version__, dump)
        copier = Copier(target)
        _copy_versions(system, named, copier, description, report)
        _copy_images(system, named.images, copier, description, report)
    for table in dump.tables:
        copier.sum_up(f"{TABLES}/{table}.copy")
    copier.finish(description)
    return description


@contextmanager
def _nothing_removed(system: System) -> Iterator[None]:
    """Hold what upkeep shares when it removes files (`db.try_share`); the server lets go if we die."""
    with system.db.statement() as connection:
        connection.execute("SET lock_timeout = 0")
        connection.execute("SELECT pg_advisory_lock(hashtext(%s), 0)", [FILES])
        yield
        (held,) = connection.execute("SELECT pg_advisory_unlock(hashtext(%s), 0)", [FILES]).fetchone() or (0,)
        if not held:
            raise BackupInvalid("The connection to the database broke meanwhile: make the backup again.")


def _list_named(session: Session) -> _Named:
    keys = select(Image.store_key).where(Image.store_key.is_not(None)).order_by(Image.store_key)
    return _Named(
        images=[key for key in session.scalars(keys) if key is not None],
        versions=list(session.scalars(select(Version).order_by(Version.id))),
        backbones=sorted(find_used(session)),
        models=list(session.scalars(select(Model.name))),
    )


def _copy_versions(
    system: System, named: _Named, copier: Copier, description: Description, report: Report
) -> None:
    """Backbones, the golden images of each model, and each version to where its row says that it lies."""
    root = system.versions.root
    folders = [(system.versions.backbone_dir(digest), f"_backbones/{digest}") for digest in named.backbones]
    folders += [(system.versions.golden_path(name).parent, f"{name}/.golden") for name in named.models]
    for source, name in folders:
        if not _copy_folder(copier, source, f"{VERSIONS}/{name}"):
            description.missing.append(source.relative_to(root).as_posix())
    for number, version in enumerate(named.versions):
        report("versions", number, len(named.versions))
        # Published while it was copied, it is found under its number the second time.
        tries = (_copy_folder(copier, locate(system, version), f"{VERSIONS}/{version.path}") for _ in "ab")
        if not any(tries) and version.pruned_at is None:
            description.missing.append(version.path)
    report("versions", len(named.versions), len(named.versions))


def _copy_folder(copier: Copier, source: Path, name: str) -> bool:
    """Whether it was there, from the first file to the last."""
    if not source.is_dir():
        return False
    try:
        for path in sorted(source.rglob("*")):
            if path.is_file() and not path.name.startswith("."):  # else about to be renamed
                copier.copy(path, f"{name}/{path.relative_to(source).as_posix()}")
    except FileNotFoundError:
        copier.drop(name)
        return False
    return source.is_dir()


def _copy_images(
    system: System, keys: list[str], copier: Copier, description: Description, report: Report
) -> None:
    for number, key in enumerate(keys):
        if number % _REPORT_EVERY == 0:
            report("images", number, len(keys))
        try:
            digest = copier.copy(system.images.locate(key), f"{IMAGES}/{key}")
        except (FileNotFoundError, ImageNotFound):
            wanted = _is_named(system, key)
            (description.missing if wanted else description.deleted_meanwhile).append(key)
            continue
        if digest[:16] != key[-16:]:
            raise BackupInvalid(f"The image {key} in the store is damaged: `backtalk verify --every-byte`.")
    report("images", len(keys), len(keys))


def _is_named(system: System, key: str) -> bool:
    """Whether a row still names the file; if not, somebody deleted it since the look."""
    with system.db.reading() as session:
        return session.scalar(select(Image.id).where(Image.store_key == key)) is not None
