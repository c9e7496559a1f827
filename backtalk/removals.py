"""Brings the image files in line with the rows: what no row names goes.

A row names a file only once it lies in the store, and a file goes only once no row names it. Between a look
at the rows and the removal a prediction may bring the same pixels again. So a file is moved out of sight
first and the rows are looked at again: if one names it by now, it comes back. Whoever predicted looks for
the file once more after its row is committed (`serving`), so one of the two always sees the other.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import islice

from sqlalchemy import delete, func, select, text
from sqlalchemy.orm import Session

from backtalk.db import try_share
from backtalk.errors import ArtefactInvalid
from backtalk.golden import read_golden, write_golden
from backtalk.images import decode, pixels_digest
from backtalk.store import ImageStore
from backtalk.system import System
from backtalk.tables import Image, ImageRemoval, Model

log = logging.getLogger(__name__)

BATCH = 500
#: A file that is younger may have a row that is about to be committed (seconds).
ORPHAN_AFTER_S = 3600.0
#: A removal that waits for longer, and no backup runs, is one that does not work (seconds).
LATE_AFTER_S = 3600
#: Held alone by a backup: nothing that it is about to copy goes meanwhile.
FILES = "files"


def remove_pending(system: System) -> int:
    """Remove the files of deleted images, wherever they lie; returns how many images that were.

    While a backup runs nothing is done: the rows wait.
    """
    done = 0
    while digests := _take(system):
        done += len(digests)
        if len(digests) < BATCH:
            break
    return done


def _take(system: System) -> list[str]:
    with system.db.transaction() as session:
        if not try_share(session, FILES):
            return []
        digests = list(
            session.scalars(
                select(ImageRemoval.pixels_sha256)
                .order_by(ImageRemoval.asked_at)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
            )
        )
        if not digests:
            return []
        remove_files(session, system.images, digests)
        _forget_golden(session, system, set(digests))
        session.execute(delete(ImageRemoval).where(ImageRemoval.pixels_sha256.in_(digests)))
    return digests


def remove_files(session: Session, images: ImageStore, digests: Iterable[str]) -> int:
    """Remove every file with these pixels that no row names; returns how many files.

    Raises:
        OSError: the disk refuses; what was moved out of sight stays there for the next time.
    """
    removed = 0
    for digest in digests:
        found = images.list_twins(digest)
        unnamed = [key for key in found if key != _find_named(session, digest)]
        for key in unnamed:
            images.set_aside(key)
        named = _find_named(session, digest) if unnamed else None
        for key in unnamed:
            if key == named:
                images.put_back(key)
            else:
                images.remove_aside(key)
                removed += 1
    return removed


def _find_named(session: Session, digest: str) -> str | None:
    """The file that the living row with these pixels names, as the database has it now."""
    return session.scalar(select(Image.store_key).where(Image.pixels_sha256 == digest))


def find_orphans(session: Session, images: ImageStore, older_than_s: float) -> Iterator[str]:
    """Keys of files that no row names."""
    keys = images.keys(older_than_s)
    while batch := list(islice(keys, BATCH)):
        digests = {key[3:67] for key in batch}
        named = set(
            session.scalars(
                select(Image.store_key).where(Image.pixels_sha256.in_(digests), Image.store_key.is_not(None))
            )
        )
        yield from (key for key in batch if key not in named)


def count_late(session: Session) -> int:
    """Deleted images whose files should be gone by now."""
    late = func.now() - text(f"interval '{LATE_AFTER_S} s'")
    return session.scalar(select(func.count()).where(ImageRemoval.asked_at < late)) or 0


def sweep_orphans(system: System) -> int:
    """Remove files that no row names, and settle what a broken-off removal moved out of sight."""
    removed = 0
    with system.db.transaction() as session:
        if not try_share(session, FILES):
            return 0
        for key in system.images.list_aside():
            if key == _find_named(session, key[3:67]):
                system.images.put_back(key)
            else:
                system.images.remove_aside(key)
                removed += 1
        orphans = {key[3:67] for key in find_orphans(session, system.images, ORPHAN_AFTER_S)}
        removed += remove_files(session, system.images, sorted(orphans))
    if removed:
        log.info("removed %d image files that no row names", removed)
    return removed


def _forget_golden(session: Session, system: System, digests: set[str]) -> None:
    """Take deleted pictures out of what versions are verified on, all but the last one."""
    for name in session.scalars(select(Model.name)):
        path = system.versions.golden_path(name)
        try:
            golden = read_golden(path)
        except ArtefactInvalid:
            continue  # none there; a damaged one shows at the next run
        kept = [i for i, data in enumerate(golden.encoded) if _digest_of(data) not in digests]
        if not kept:
            log.warning(
                "%s: its last golden image was deleted and stays, or no version could be verified", name
            )
            kept = [0]
        if len(kept) < len(golden.encoded):
            write_golden(path, golden.inputs[kept], [golden.encoded[i] for i in kept])


def _digest_of(data: bytes) -> str:
    return pixels_digest(decode(data, max_bytes=len(data)).pixels)
