"""Takes back what was said: one correction, all that a reporter said, or all that a key said and sent.

Everything happens in one transaction. What is withdrawn is neither learned from nor judged on any more, runs
that rest on it end, and where the live version learned from it, a run without it becomes due
(`wishes.weigh_withdrawn`). Saying it twice changes nothing. `docs/poisoning.md` tells when to use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk import audit, items
from backtalk.callers import Caller
from backtalk.considerations import lock_row
from backtalk.dataset import lock_decisions
from backtalk.db import parse_id
from backtalk.errors import CorrectionNotFound, InvalidInput, ModelNotFound, NotFound
from backtalk.events import StatementsWithdrawn
from backtalk.lineage import find_tainted
from backtalk.outbox import emit
from backtalk.states import Withdrawn
from backtalk.tables import ApiKey, Correction, Model, Prediction, Retraction, ReviewItem
from backtalk.withdrawals import Taken, Target, end_runs, find_predictions, take_back


@dataclass(frozen=True)
class Affected:
    """What a retraction means for one model."""

    model: str
    versions: list[int]  # those that learned from what was withdrawn, by themselves or through their parent
    live_version: int | None
    run_due: bool  # the live version is one of them, so a run without it follows
    ended_runs: list[str]  # runs that rested on it


@dataclass(frozen=True)
class Retracted:
    """What was taken back just now; all zero where everything was withdrawn before."""

    what: Withdrawn
    subject: str
    corrections: int
    confirmations: int
    samples: int
    models: list[Affected]


def retract(
    session: Session, *, caller: Caller, what: Withdrawn, subject: str, model_name: str | None = None
) -> Retracted:
    """Withdraw a correction by its id, a reporter by name (from one model, if named), or a key by its id.

    Raises:
        CorrectionNotFound, ModelNotFound
        NotFound: nobody of that name has said anything, or there is no such key.
        InvalidInput: a model is named, but it is not a reporter that is withdrawn.
    """
    target = _aim(session, what, subject, model_name)
    model_ids = _lock(session, target)
    row = Retraction(what=what, subject=target.name, actor=caller.actor, counts={})
    session.add(row)
    session.flush()
    taken = take_back(session, target, row.id)
    if taken.nothing:
        session.delete(row)
    else:
        row.counts = {**taken.counts(), "models": len(model_ids)}
        _reoffer(session, taken.predictions)
    session.flush()
    same = select(Retraction.id).where(Retraction.what == what, Retraction.subject == target.name)
    every = list(session.scalars(same))
    affected = [_follow(session, model_id, every, taken) for model_id in model_ids]
    if not taken.nothing:
        told: dict[str, object] = {"what": str(what), "retraction": row.id, **taken.counts()}
        if len(affected) == 1:
            told["model"] = affected[0].model
        audit.record(session, caller.actor, "statements.retract", f"{what}:{target.name}", **told)
    return Retracted(what, subject, **taken.counts(), models=affected)


def _aim(session: Session, what: Withdrawn, subject: str, model_name: str | None) -> Target:
    if model_name is not None and what is not Withdrawn.REPORTER:
        raise InvalidInput("A model narrows down a reporter; a correction or a key needs none.")
    model_id = None
    if model_name is not None:
        model_id = session.scalar(select(Model.id).where(Model.name == model_name))
        if model_id is None:
            raise ModelNotFound(f"There is no model called {model_name!r}.")
    target = Target(what, subject, model_id, f"{model_name}/{subject}" if model_name else subject)
    if what is Withdrawn.CORRECTION:
        if _find_correction(session, subject) is None:
            raise CorrectionNotFound(f"There is no correction {subject!r}.")
    elif what is Withdrawn.KEY and session.get(ApiKey, subject) is None:
        raise NotFound(f"No key has the id {subject!r}. It is the part between the underscores.")
    elif what is Withdrawn.REPORTER and not find_predictions(session, target):
        raise NotFound(f"Nobody called {subject!r} has said anything{' here' if model_name else ''}.")
    return target


def _find_correction(session: Session, subject: str) -> Correction | None:
    key = parse_id(subject)
    return session.get(Correction, key) if key else None


def _lock(session: Session, target: Target) -> list[int]:
    """The order of locks that statements and decisions take: predictions, then decisions of each model."""
    ids = sorted(find_predictions(session, target))
    rows = session.execute(
        select(Prediction.id, Prediction.model_id)
        .where(Prediction.id.in_(ids))
        .order_by(Prediction.id)
        .with_for_update()
    ).all()
    model_ids = sorted({row.model_id for row in rows})
    for model_id in model_ids:
        lock_decisions(session, model_id)
    return model_ids


def _reoffer(session: Session, prediction_ids: Sequence[UUID]) -> None:
    """Open review items follow: they close, or are about what still stands."""
    rows = (
        select(Prediction)
        .join(ReviewItem, ReviewItem.prediction_id == Prediction.id)
        .where(Prediction.id.in_(prediction_ids), ReviewItem.closed_at.is_(None))
        .order_by(Prediction.id)
    )
    for prediction in session.scalars(rows).all():
        items.offer(session, prediction)


def _follow(session: Session, model_id: int, retractions: list[int], taken: Taken) -> Affected:
    """End what rests on it, and have the model considered."""
    model = lock_row(session, model_id)
    tainted = find_tainted(session, model_id)
    ended = [] if taken.nothing else end_runs(session, model_id, tainted, judged=taken.judged)
    if not taken.nothing:
        model.consider_at = func.now()  # should the message get lost
        emit(session, StatementsWithdrawn(model_id=model_id))
    session.flush()
    return Affected(
        model=model.name,
        versions=sorted(find_tainted(session, model_id, retractions)),
        live_version=model.live_version,
        run_due=model.live_version in tainted,
        ended_runs=ended,
    )
