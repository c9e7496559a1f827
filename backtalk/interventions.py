"""What a person does to a champion: make another version live, or go back.

Each works in its caller's transaction, so that whatever belongs to it is committed with it. After that,
`champions.rewrite_models_config` is due.
"""

import logging
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk import audit, champions
from backtalk.callers import Caller
from backtalk.errors import ChampionMoved, Conflict, NothingToRollBack
from backtalk.events import PromotionAsked, VersionRolledBack
from backtalk.failpoints import around_commit
from backtalk.ledger import find_previous_champion
from backtalk.outbox import emit
from backtalk.states import VersionState
from backtalk.store import verify_sums
from backtalk.system import System
from backtalk.tables import Model, Version

log = logging.getLogger(__name__)

PROMOTABLE = (VersionState.CANDIDATE, VersionState.INCONCLUSIVE, VersionState.RETIRED)


@dataclass(frozen=True)
class Changed:
    """The version that is live now."""

    model: str
    version: int
    generation: int


@dataclass(frozen=True)
class Asked:
    """A worker is about to make the version live, unless the generation changes before."""

    model: str
    version: int
    generation: int


def promote_version(
    session: Session,
    system: System,
    *,
    model_name: str,
    number: int,
    caller: Caller,
    seen: int | None = None,
) -> Changed | Asked:
    """Make a version live whose artefact verifies, whatever the gate said short of `rejected`.

    Where this process may not write the store, and the version was never published, a worker is asked to.
    `seen`: the generation that the person decided on; if it is another by now, nothing is changed.

    Raises:
        ModelNotFound, VersionNotFound
        ChampionMoved: the generation is not `seen`.
        Conflict: it is live already, or in no state to be promoted.
        ArtefactInvalid: its files are not what was verified.
    """
    model = champions.get_model(session, model_name)
    version = champions.get_version(session, model, number)
    _check_seen(model, seen)
    if version.state == VersionState.LIVE:
        raise Conflict(f"Version {number} of {model_name} is live already.")
    if version.state not in PROMOTABLE or version.pruned_at is not None:
        state = "pruned" if version.pruned_at is not None else version.state
        raise Conflict(f"Version {number} of {model_name} is {state} and cannot be promoted.")
    if not (system.versions.may_write(model_name) or system.versions.is_published(model_name, number)):
        verify_sums(champions.locate(system, version), version.artefact_digest)
        return _ask(session, model, version, caller)
    path = champions.publish(system, model, version)
    change = champions.Change(action="promote", actor=caller.actor, path=path, detail={"by": "person"})
    try:
        return _change(session, model_name, number, change, seen)
    except ChampionMoved:
        champions.unpublish(system, version, path)
        raise


def rollback_model(
    session: Session, system: System, *, model_name: str, caller: Caller, seen: int | None = None
) -> Changed:
    """Back to the version that the champion took over from, at once; sets `hold`. `seen`: as above.

    Raises:
        ModelNotFound
        ChampionMoved: the generation is not `seen`.
        NothingToRollBack: the champion is the first version.
        Conflict: the champion was changed in this very moment.
        ArtefactInvalid: the files of the one before are not what was verified.
    """
    model = champions.get_model(session, model_name)
    champion = model.live_version or 0
    number = find_previous_champion(session, model.id, champion)
    if number is None:
        raise NothingToRollBack(f"{model_name} has no earlier version than {champion}.")
    version = champions.get_version(session, model, number)
    if version.pruned_at is None:
        verify_sums(champions.locate(system, version), version.artefact_digest)
    change = champions.Change(
        action="rollback", actor=caller.actor, path=version.path, detail={"by": "person"}
    )
    if champions.get_model(session, model_name, for_update=True).live_version != champion:
        raise Conflict(f"Somebody else has just changed the champion of {model_name}; look again.")
    return _change(session, model_name, number, change, seen)


def _check_seen(model: Model, seen: int | None) -> None:
    if seen is not None and model.generation != seen:
        raise ChampionMoved(f"Version {model.live_version} went live meanwhile, so nothing was changed.")


def _change(
    session: Session, model_name: str, number: int, change: champions.Change, seen: int | None
) -> Changed:
    model = champions.get_model(session, model_name, for_update=True)
    _check_seen(model, seen)
    generation = champions.change_champion(
        session, model.id, number, seen=model.generation, change=change, unless_held=False
    )
    assert generation is not None  # the row was locked
    around_commit(session, "rollback" if change.action == "rollback" else "promotion")
    champions.log_change(session, model_name, number, change)
    if change.action == "rollback":
        emit(session, VersionRolledBack(model_id=model.id, version=number))
    return Changed(model_name, number, generation)


def _ask(session: Session, model: Model, version: Version, caller: Caller) -> Asked:
    version.asked_by, version.asked_generation, version.asked_at = caller.actor, model.generation, func.now()
    emit(session, PromotionAsked(model_id=model.id, version=version.number))
    audit.record(
        session, caller.actor, "version.promote-asked", f"model:{model.name}", version=version.number
    )
    return Asked(model.name, version.number, model.generation)


def list_asked(session: Session, model_id: int | None = None) -> list[tuple[Model, Version]]:
    """What persons asked for and no worker has seen to, of one model or of all, the oldest first."""
    statement = select(Model, Version).join(Version, Version.model_id == Model.id)
    statement = statement.where(Version.asked_at.is_not(None)).order_by(Version.asked_at)
    if model_id is not None:
        statement = statement.where(Model.id == model_id)
    return [(row[0], row[1]) for row in session.execute(statement)]


def settle_wish(session: Session, model_name: str, version_id: int, path: str | None) -> bool:
    """Make live what was asked for, published at `path` by now. In any case it is asked for no longer.

    Returns:
        False: its files are not what was verified (no `path`), the champion was changed since, or another
        worker saw to it.
    """
    model = champions.get_model(session, model_name, for_update=True)
    version = session.get_one(Version, version_id, populate_existing=True)
    actor, seen = version.asked_by, version.asked_generation
    version.asked_by = version.asked_generation = version.asked_at = None
    if path is None or actor is None or seen != model.generation or version.state not in PROMOTABLE:
        log.warning("%s: version %d is not promoted as it was asked for", model_name, version.number)
        return False
    change = champions.Change(action="promote", actor=actor, path=path, detail={"by": "person"})
    _change(session, model_name, version.number, change, None)
    return True
