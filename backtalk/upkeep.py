"""Keeps the house clean: old artefacts, what broken-off work left behind, events long rung for."""

import logging
import shutil
from pathlib import Path

from psycopg.errors import InsufficientPrivilege
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from backtalk import complaints, neighbours, removals, retention
from backtalk.backbone_use import prune_unused
from backtalk.boards import prune_boards
from backtalk.champions import rewrite_models_config
from backtalk.db import try_share
from backtalk.errors import ArtefactInvalid
from backtalk.failpoints import failpoint
from backtalk.ledger import find_previous_champion
from backtalk.states import ACTIVE_RUN_STATES, VersionState
from backtalk.sums import read_disk_clock
from backtalk.system import System
from backtalk.tables import LedgerEntry, Model, Run, Version

log = logging.getLogger(__name__)

UNPROMOTED_KEPT = 3
RETIRED_KEPT = 5  # with their SavedModels; of older ones only the heads stay
LEFTOVER_AFTER_S = 3600.0
_HEX = "[0-9a-f]"


def prune_versions(system: System, model_id: int) -> None:
    """Keep the newest unpromoted artefacts whole, and the SavedModels of the newest promoted ones.

    The heads of all promoted versions stay: anchors and receipts need them.
    """
    with system.db.transaction() as session:
        if not try_share(session, removals.FILES):
            return  # a backup runs; the next sweep comes in a minute
        promoted = set(session.scalars(select(LedgerEntry.version).where(LedgerEntry.model_id == model_id)))
        prunable = _list_prunable(session, model_id, promoted)
        for version in prunable:
            failpoint("upkeep.before_prune")
            if version.number in promoted:
                system.versions.prune(version.path)
            else:
                system.versions.discard(version.path)
            failpoint("upkeep.after_prune")
            version.pruned_at = func.now()
            log.info("version %d of model %d pruned", version.number, model_id)
        if prunable:
            _have_aliases_told(session, model_id)


def _have_aliases_told(session: Session, model_id: int) -> None:
    """MLflow's `challenger` may be the version that nobody can promote any more."""
    told = update(Model).where(Model.id == model_id, Model.tracked_generation.is_not(None))
    session.execute(told.values(tracked_generation=0))


def _list_prunable(session: Session, model_id: int, promoted: set[int]) -> list[Version]:
    versions = list(
        session.scalars(
            select(Version)
            .where(
                Version.model_id == model_id,
                Version.pruned_at.is_(None),
                Version.state != VersionState.LIVE,
                Version.run_id.not_in(select(Run.id).where(Run.state.in_(ACTIVE_RUN_STATES)))
                | Version.run_id.is_(None),
            )
            .order_by(Version.number.desc())
        )
    )
    model = session.get_one(Model, model_id)
    before = find_previous_champion(session, model_id, model.live_version or 0)
    unpromoted = [v for v in versions if v.number not in promoted]
    retired = [v for v in versions if v.number in promoted and v.number != before]
    return unpromoted[UNPROMOTED_KEPT:] + retired[RETIRED_KEPT:]


def retain_images(system: System) -> None:
    """Act upon `retention_days` and `keep_images`, and remove the files that this leaves without a row."""
    retention.expire_images(system)
    retention.drop_silent_pixels(system)
    removals.remove_pending(system)


def sweep_images(system: System) -> None:
    """Remove the files that no row names: left by broken-off work, or the same pixels in another encoding."""
    removals.sweep_orphans(system)


def sweep(system: System) -> None:
    """Remove what broken-off work left, forget old doorbells, and mend models.config."""
    with system.db.transaction() as session:
        failpoint("upkeep.before_rows")
        session.execute(text("DELETE FROM outbox WHERE published_at < now() - interval '7 days'"))
        session.execute(text("DELETE FROM closed_views WHERE closed_at < now() - interval '1 hour'"))
        session.execute(text("DELETE FROM replicas WHERE seen_at < now() - interval '1 hour'"))
        session.execute(text("DELETE FROM idempotency_keys WHERE created_at < now() - interval '7 days'"))
        session.execute(text("DELETE FROM sign_in_attempts WHERE at < now() - interval '1 day'"))
        known = set(session.scalars(select(Version.path)))
        active = {str(i) for i in session.scalars(select(Run.id).where(Run.state.in_(ACTIVE_RUN_STATES)))}
        model_ids = list(session.scalars(select(Model.id)))
    for model_id in model_ids:
        prune_versions(system, model_id)
    _remove_leftovers(system, known, active)
    prune_unused(system, older_than_s=LEFTOVER_AFTER_S)
    removals.remove_pending(system)
    prune_boards(system)
    mend_models_config(system)


def mend_models_config(system: System) -> None:
    """Where a promotion broke off between its commit and this file, or its process may not write it."""
    with system.db.reading() as session:
        rows = session.execute(select(Model.name, Model.live_version).where(Model.live_version.is_not(None)))
        live = dict(rows.all())
    if _named_live(system) != live:
        rewrite_models_config(system)


def _named_live(system: System) -> dict[str, int] | None:
    try:
        return system.versions.read_models_config()
    except ArtefactInvalid:
        return None


def _remove_leftovers(system: System, known: set[str], active: set[str]) -> None:
    """Folders of attempts that no version names, nor a run at work, once too old to be of one that began."""
    failpoint("upkeep.before_leftovers")
    root = system.versions.root
    attempts = [p for p in root.glob("*/.candidates/*") if str(p.relative_to(root)) not in known]
    attempts += root.glob(".jobs/*")
    ended = [p for p in attempts if p.name.rpartition("-")[0] not in active]
    ended += [p for p in root.glob(".training/*") if p.name not in active]
    # A removal that broke off after its first rename, and a file that was written aside and never renamed.
    torn = [*root.glob("*/.gone-*"), *root.glob("*/.candidates/.gone-*"), *root.glob(f".*.{_HEX * 32}")]
    torn += root.glob(f"*/.devices/.*.{_HEX * 32}")
    found = [*ended, *torn, *_list_half_numbers(root)]
    now = read_disk_clock(root) if found else 0.0
    for path in found:
        if _age_s(path, now) > LEFTOVER_AFTER_S:
            _remove(path)
            log.info("removed %s, left by work that broke off", path.name)
    system.images.sweep()


def _list_half_numbers(root: Path) -> list[Path]:
    """What has a version's name and is none: a link, a file, a folder without its sums.

    A whole artefact that no row names stays: the database may be an older one, restored.
    """
    found = root.glob("*/[1-9]*")
    return [p for p in found if p.is_symlink() or not (p / "SHA256SUMS").is_file()]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def keep_days(system: System) -> None:
    """Count what the pages show of past days, each model in a transaction of its own."""
    with system.db.reading() as session:
        model_ids = list(session.scalars(select(Model.id)))
    for model_id in model_ids:
        with system.db.transaction() as session:
            complaints.keep_days(session, session.get_one(Model, model_id))


def index_embeddings(system: System) -> None:
    """Make the search for similar pictures quick where there are enough of them to need it."""
    settings = system.settings
    try:
        neighbours.make_indexes(str(settings.migration_url or settings.database_url))
    except InsufficientPrivilege:
        log.debug("this process may make no index; whoever owns the tables may, with BACKTALK_MIGRATION_URL")


def _age_s(path: Path, now: float) -> float:
    try:
        return now - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
