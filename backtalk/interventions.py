"""What a person does to a champion: make another version live, or go back.

Each works in its caller's transaction, so that whatever belongs to it is committed with it. After that,
`champions.rewrite_models_config` is due.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from backtalk import champions
from backtalk.callers import Caller
from backtalk.errors import ChampionMoved, Conflict, NothingToRollBack
from backtalk.events import VersionRolledBack
from backtalk.failpoints import around_commit
from backtalk.ledger import find_previous_champion
from backtalk.outbox import emit
from backtalk.states import VersionState
from backtalk.store import verify_sums
from backtalk.system import System

PROMOTABLE = (VersionState.CANDIDATE, VersionState.INCONCLUSIVE, VersionState.RETIRED)


@dataclass(frozen=True)
class Changed:
    """The version that is live now."""

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
) -> Changed:
    """Make a version live whose artefact verifies, whatever the gate said short of `rejected`.

    `seen`: the generation that the person decided on; if it is another by now, nothing is changed.

    Raises:
        ModelNotFound, VersionNotFound
        ChampionMoved: the generation is not `seen`.
        Conflict: it is live already, or in no state to be promoted.
        ArtefactInvalid: its files are not what was verified.
    """
    model = champions.get_model(session, model_name)
    version = champions.get_version(session, model, number)
    if version.state == VersionState.LIVE:
        raise Conflict(f"Version {number} of {model_name} is live already.")
    if version.state not in PROMOTABLE or version.pruned_at is not None:
        state = "pruned" if version.pruned_at is not None else version.state
        raise Conflict(f"Version {number} of {model_name} is {state} and cannot be promoted.")
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


def _change(
    session: Session, model_name: str, number: int, change: champions.Change, seen: int | None
) -> Changed:
    model = champions.get_model(session, model_name, for_update=True)
    if seen is not None and model.generation != seen:
        raise ChampionMoved(f"Version {model.live_version} went live meanwhile, so nothing was changed.")
    generation = champions.change_champion(
        session, model.id, number, seen=model.generation, change=change, unless_held=False
    )
    assert generation is not None  # the row was locked
    around_commit(session, "rollback" if change.action == "rollback" else "promotion")
    champions.log_change(session, model_name, number, change)
    if change.action == "rollback":
        emit(session, VersionRolledBack(model_id=model.id, version=number))
    return Changed(model_name, number, generation)
