"""Which backbones somebody needs, and the removal of the others: each rejected full run leaves one."""

import logging
import shutil

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session

from backtalk.failpoints import failpoint
from backtalk.states import ACTIVE_RUN_STATES, RunKind
from backtalk.sums import read_disk_clock
from backtalk.system import System
from backtalk.tables import Embedding, LedgerEntry, Run, Version

log = logging.getLogger(__name__)


def find_used(session: Session) -> set[str]:
    """Digests of those on which versions stand that still have a head.

    These are all that ever were live, which anchors, receipts and rollbacks need, and the newest others.
    """
    was_live = exists().where(LedgerEntry.model_id == Version.model_id, LedgerEntry.version == Version.number)
    query = select(Version.backbone_digest).where(or_(Version.pruned_at.is_(None), was_live))
    return set(session.scalars(query))


def prune_unused(system: System, *, older_than_s: float) -> None:
    """Remove the files and embeddings of backbones that nobody needs.

    Nothing goes while a full run is at work, since its backbone is in the store before any row names it, nor
    what was put there less than `older_than_s` ago.
    """
    root = system.versions.root / "_backbones"
    folders = [path for path in root.glob("[0-9a-f]*") if path.is_dir()]
    with system.db.reading() as session:
        busy = select(Run.id).where(Run.kind == RunKind.FULL, Run.state.in_(ACTIVE_RUN_STATES)).limit(1)
        if not folders or session.scalar(busy) is not None:
            return
        used = find_used(session)
    now = read_disk_clock(root)
    for folder in folders:
        if folder.name in used or now - folder.stat().st_mtime <= older_than_s:
            continue
        failpoint("upkeep.before_prune_backbone")
        shutil.rmtree(folder, ignore_errors=True)
        with system.db.transaction() as session:
            session.execute(delete(Embedding).where(Embedding.backbone_digest == folder.name))
        log.info("backbone %s removed: no version needs it", folder.name[:12])
