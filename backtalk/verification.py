"""Proves what is claimed: ledger, audit log, sums, and that models.config names what is live."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import audit, removals
from backtalk.champions import get_model, locate
from backtalk.errors import ArtefactInvalid, ImageNotFound
from backtalk.heads import Head
from backtalk.ledger import find_breaks
from backtalk.states import VersionState
from backtalk.store import verify_sums
from backtalk.system import System
from backtalk.tables import Image, LedgerEntry, Model, Version


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `problem` is None where it holds."""

    model: str
    subject: str
    problem: str | None
    note: str | None = None


def verify(
    system: System, model_name: str | None = None, *, noted_head: str | None = None, every_byte: bool = False
) -> list[Finding]:
    """Look at one model, or at all, the audit log and the images.

    Args:
        noted_head: the audit log's head as somebody noted it earlier; it must still be in the chain.
        every_byte: read every image file, too, rather than see that it is there.

    Raises:
        ModelNotFound
    """
    with system.db.reading() as session:
        if model_name is not None:
            models = [get_model(session, model_name)]
        else:
            models = list(session.scalars(select(Model).order_by(Model.name)))
        findings = [finding for model in models for finding in _verify_model(session, system, model)]
        if model_name is None:
            findings.append(_verify_audit_log(session, noted_head))
            findings += _verify_images(session, system, every_byte=every_byte)
        findings += _verify_models_config(system, models)
    return findings


def _verify_model(session: Session, system: System, model: Model) -> list[Finding]:
    breaks = find_breaks(session, model.id, model.generation)
    findings = [Finding(model.name, "ledger", "; ".join(breaks) or None), _verify_live(session, model)]
    versions = session.scalars(
        select(Version)
        .where(
            Version.model_id == model.id,
            Version.state.in_((VersionState.LIVE, VersionState.RETIRED, VersionState.CANDIDATE)),
            Version.pruned_at.is_(None) | (Version.state != VersionState.CANDIDATE),
        )
        .order_by(Version.number)
    )
    for version in versions:
        problem = _check_files(system, version)
        findings.append(Finding(model.name, f"version {version.number} ({version.state})", problem))
    return findings


def _verify_audit_log(session: Session, noted_head: str | None) -> Finding:
    proof = audit.prove(session, noted_head)
    note = f"{proof.entries} entries, head {proof.head}"
    return Finding("*", "audit log", "; ".join(proof.breaks[:3]) or None, note)


def _verify_images(session: Session, system: System, *, every_byte: bool) -> list[Finding]:
    """Both directions: no row names a file that is gone, and no file lies there without a row for long."""
    count, bad = 0, []
    for key in session.scalars(select(Image.store_key).where(Image.store_key.is_not(None))).yield_per(1000):
        assert key is not None
        count += 1
        if not system.images.has(key) or (every_byte and not _is_readable(system, key)):
            bad.append(key)
    gone = f"{len(bad)} files are gone or damaged, such as {bad[0]}" if bad else None
    orphans = sum(1 for _ in removals.find_orphans(session, system.images, removals.ORPHAN_AFTER_S))
    late = removals.count_late(session)
    still = f"the files of {late} deleted images still lie there" if late else None
    return [
        Finding("*", "images", gone, f"{count} files"),
        Finding("*", "image files without a row", still, f"{orphans} for the hourly sweep"),
    ]


def _is_readable(system: System, key: str) -> bool:
    try:
        system.images.get(key)
    except ImageNotFound:
        return False
    return True


def _verify_live(session: Session, model: Model) -> Finding:
    """The row, the version's state and the ledger's last entry name the same version."""
    last = session.scalar(
        select(LedgerEntry).where(LedgerEntry.model_id == model.id).order_by(LedgerEntry.seq.desc()).limit(1)
    )
    live = session.scalar(
        select(Version).where(Version.model_id == model.id, Version.state == VersionState.LIVE)
    )
    named = {model.live_version, last and last.version, live and live.number}
    if len(named) == 1 and None not in named and last and live:
        same = last.artefact_digest == live.artefact_digest
        return Finding(
            model.name, "live version", None if same else "the ledger names another artefact than the version"
        )
    return Finding(
        model.name,
        "live version",
        f"the model names {model.live_version}, the ledger {last and last.version}, "
        f"the versions {live and live.number}",
    )


def _check_files(system: System, version: Version) -> str | None:
    folder = locate(system, version)
    try:
        if version.pruned_at is None:
            verify_sums(folder, version.artefact_digest)
        Head.load(folder / "head.npz")
    except ArtefactInvalid as error:
        return error.message
    return None


def _verify_models_config(system: System, models: list[Model]) -> list[Finding]:
    try:
        named = system.versions.read_models_config()
    except ArtefactInvalid as error:
        return [Finding("*", "models.config", error.message)]
    return [
        Finding(
            model.name,
            "models.config",
            None
            if named.get(model.name) == model.live_version
            else f"names version {named.get(model.name)}, live is {model.live_version}",
        )
        for model in models
    ]
