"""The change of champion itself: published folder, compare-and-set, ledger, models.config."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk import audit
from backtalk.db import lock_model
from backtalk.errors import ModelNotFound, VersionNotFound
from backtalk.events import VersionPromoted
from backtalk.failpoints import failpoint
from backtalk.ledger import append_entry
from backtalk.outbox import emit
from backtalk.states import VersionState
from backtalk.store import verify_sums
from backtalk.system import System
from backtalk.tables import GateCheck, Model, Version


@dataclass(frozen=True, kw_only=True)
class Change:
    """Why and how a version goes live."""

    action: str  # promote or rollback
    actor: str
    path: str
    run_id: UUID | None = None
    anchor: bool = False  # its lower bound against the anchor before it is above zero
    detail: dict[str, Any] = field(default_factory=dict)


def get_model(session: Session, name: str, *, for_update: bool = False) -> Model:
    """With `for_update` as it is once nobody else can change it. Raises ModelNotFound."""
    statement = select(Model).where(Model.name == name)
    if for_update:
        statement = statement.with_for_update().execution_options(populate_existing=True)
    model = session.scalar(statement)
    if model is None:
        raise ModelNotFound(f"There is no model {name!r}.")
    return model


def get_version(session: Session, model: Model, number: int | None) -> Version:
    """Raises VersionNotFound."""
    version = session.scalar(select(Version).where(Version.model_id == model.id, Version.number == number))
    if version is None:
        raise VersionNotFound(f"{model.name} has no version {number}.")
    return version


def get_champion(session: Session, model_id: int) -> Version:
    """The version that is live. A model has one from its creation on."""
    return session.scalars(
        select(Version).where(Version.model_id == model_id, Version.state == VersionState.LIVE)
    ).one()


def locate(system: System, version: Version) -> Path:
    """The version's folder: where its row says, or published already by somebody who broke off."""
    folder = system.versions.resolve(version.path)
    if folder.is_dir():
        return folder
    return system.versions.resolve(f"{version.path.split('/')[0]}/{version.number}")


def publish(system: System, model: Model, version: Version) -> str:
    """Read it whole once more, and give it its integer name: a disk may have changed it since it was judged.

    Raises:
        ArtefactInvalid: its files are not what was verified.
    """
    verify_sums(locate(system, version), version.artefact_digest)
    return system.versions.publish(version.path, model.name, version.number, version.artefact_digest)


def unpublish(system: System, version: Version, published: str) -> None:
    """Only promoted versions keep an integer name: TensorFlow Serving would load the highest."""
    target, source = system.versions.resolve(published), system.versions.resolve(version.path)
    if target != source and target.is_dir() and not source.exists():
        target.rename(source)


def change_champion(
    session: Session, model_id: int, number: int, *, seen: int, change: Change, unless_held: bool
) -> int | None:
    """Make `number` live if the generation is still `seen`; the new generation, or None.

    The first statement takes the model's row lock, which puts all changes of its chain in one order.
    """
    condition = [Model.id == model_id, Model.generation == seen]
    if unless_held:
        condition.append(~Model.hold)
    values: dict[str, Any] = {"live_version": number, "generation": Model.generation + 1}
    if change.action == "rollback":
        values["hold"] = True
    failpoint("promotion.before_swap")
    generation: int | None = session.scalar(
        update(Model).where(*condition).values(values).returning(Model.generation)
    )
    if generation is None:
        return None
    failpoint("promotion.after_swap")
    previous = _retire(session, model_id, rolled_back=change.action == "rollback")
    version = session.scalars(
        select(Version).where(Version.model_id == model_id, Version.number == number)
    ).one()
    version.state, version.path = VersionState.LIVE, change.path
    if change.anchor:
        version.anchored_at = func.now()
    append_entry(
        session,
        model_id=model_id,
        seq=generation,
        action=change.action,
        version=number,
        previous_version=previous,
        run_id=change.run_id,
        actor=change.actor,
        artefact_digest=version.artefact_digest,
        detail=change.detail,
    )
    if change.action == "promote":
        emit(session, VersionPromoted(model_id=model_id, version=number))
    return generation


def _retire(session: Session, model_id: int, *, rolled_back: bool) -> int | None:
    """Take the champion out of office; a version that a person rolled back is no anchor any more."""
    champion = session.scalar(
        select(Version).where(Version.model_id == model_id, Version.state == VersionState.LIVE)
    )
    if champion is None:
        return None
    champion.state = VersionState.RETIRED
    if rolled_back and champion.number != 1:
        champion.anchored_at = None
    session.flush()
    return champion.number


def summarise_checks(session: Session, run_id: UUID) -> list[dict[str, Any]]:
    """The checks of the last round, without the images, for the ledger."""
    last = session.scalar(select(func.max(GateCheck.round)).where(GateCheck.run_id == run_id))
    rows = session.scalars(
        select(GateCheck).where(GateCheck.run_id == run_id, GateCheck.round == last).order_by(GateCheck.id)
    )
    return [
        {
            "check": row.check,
            "value": row.value,
            "bound": row.bound,
            "n": row.n,
            "fixed": row.fixed,
            "broken": row.broken,
            "passed": row.passed,
        }
        for row in rows
    ]


def log_change(session: Session, model_name: str, number: int, change: Change) -> None:
    audit.record(session, change.actor, f"version.{change.action}", f"model:{model_name}", version=number)


def rewrite_models_config(system: System) -> None:
    """Name every model's live version to TensorFlow Serving, as of now: one writer at a time.

    Nothing happens where the store cannot be written; then upkeep does it, after each change.
    """
    if not system.versions.may_write():
        return
    with system.db.transaction() as session:
        lock_model(session, 0, "models.config")
        rows = session.execute(select(Model.name, Model.live_version).where(Model.live_version.is_not(None)))
        failpoint("config.before_write")
        system.versions.write_models_config({row.name: int(row.live_version) for row in rows})
        failpoint("config.after_write")
