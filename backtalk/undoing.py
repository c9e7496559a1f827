"""Taking back a decision: a row of its own, the item open again, and word of who has learned from it.

Nothing is erased. The decision stays where it was written; the undo names it, and from then on it counts no
longer: not for triggers, not as the last word on the item, not as the origin of a sample.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.dataset import lock_decisions
from backtalk.decisions import Submission, find_final, list_rulings, write
from backtalk.errors import CannotUndo, DecisionNotFound
from backtalk.events import DecisionUndone
from backtalk.items import DISAGREEMENT, find_newest_statement, find_open_item, lease_to, refile
from backtalk.learned import Learned as Learned  # noqa: PLC0414 - part of what this module offers
from backtalk.learned import find_learned
from backtalk.outbox import emit
from backtalk.settling import unsettle
from backtalk.states import Action, CorrectionState, ItemKind
from backtalk.tables import Correction, Decision, Image, Model, Prediction, ReviewItem


@dataclass(frozen=True)
class Undone:
    """`item` is open again and leased to who undid it."""

    decision: Decision
    item: ReviewItem
    learned: Learned


def undo_decision(
    session: Session, *, caller: Caller, request_id: UUID, submission: Submission | None = None
) -> Undone:
    """Withdraw the caller's own decision that was sent as `request_id`. Done twice, it changes nothing more.

    Raises:
        DecisionNotFound: the caller made no decision with that id.
        CannotUndo: others have decided or reported since, or the picture was deleted: undoing it would
            overrule them, so the item must be decided anew.
    """
    decision = session.scalar(
        select(Decision).where(
            Decision.actor == caller.actor, Decision.request_id == request_id, Decision.action != Action.UNDO
        )
    )
    if decision is None:
        raise DecisionNotFound("That answer did not count, so there is nothing to undo.")
    # The same order of locks as decisions take.
    prediction = session.get_one(Prediction, decision.prediction_id, with_for_update=True)
    model = session.get_one(Model, decision.model_id)
    lock_decisions(session, model.id)
    item = session.get_one(ReviewItem, decision.item_id, with_for_update=True, populate_existing=True)
    learned = find_learned(session, model, decision)
    undo = session.scalar(select(Decision).where(Decision.undoes == decision.id))
    if undo is not None:
        return Undone(undo, item, learned)
    _refuse_overruling(session, prediction, item, decision)
    revived = unsettle(session, prediction, decision) if decision.final else None
    if item.kind == ItemKind.SUSPECTED and revived is not None:
        item.sample_id = revived.id  # that is what it asks about from now on
    _reopen(session, item, decision, caller)
    undo = write(session, item, caller, Action.UNDO, submission=submission, undoes=decision.id)
    if decision.counts:
        emit(session, DecisionUndone(model_id=model.id, prediction_id=str(prediction.id)))
    return Undone(undo, item, learned)


def _refuse_overruling(
    session: Session, prediction: Prediction, item: ReviewItem, decision: Decision
) -> None:
    """Raises CannotUndo where the item is no longer as the decision left it."""
    if session.get_one(Image, prediction.image_id).deleted_at is not None:
        raise CannotUndo("The picture was deleted meanwhile, so there is nothing left to decide.")
    correction = session.get(Correction, item.correction_id) if item.correction_id else None
    if correction is not None and correction.state == CorrectionState.RETRACTED:
        raise CannotUndo("The report was withdrawn meanwhile, so there is nothing left to decide.")
    since = [d for d in list_rulings(session, item.id) if d.id > decision.id]
    if since:
        raise CannotUndo("Another reviewer has decided it since; your answer is part of that.")
    if item.kind == ItemKind.GOLD:
        return
    if not decision.final:
        if item.closed_at is not None:
            raise CannotUndo("What the item was about was withdrawn meanwhile.")
        if item.leased_by not in (None, decision.actor) and _is_leased(session, item):
            raise CannotUndo("Another reviewer is looking at it just now.")
        return
    newest = find_final(session, prediction_id=prediction.id)
    if newest is None or newest.id != decision.id:
        raise CannotUndo("Another report about it was decided since; that decision stands.")
    if find_newest_statement(session, prediction.id) or find_open_item(session, prediction.id):
        raise CannotUndo("A new report about it has come in: it is in the queue again. Decide it there.")


def _is_leased(session: Session, item: ReviewItem) -> bool:
    return bool(session.scalar(select(func.now() < item.lease_until)))


def _reopen(session: Session, item: ReviewItem, decision: Decision, caller: Caller) -> None:
    if decision.action in (Action.SKIP, Action.FLAG):
        item.skipped_by = [actor for actor in item.skipped_by if actor != caller.actor]
    if decision.action == Action.FLAG or item.flagged_by == DISAGREEMENT:
        item.flagged_at = item.flagged_by = None
        refile(session, item)
    item.closed_at = None
    item.etag += 1
    lease_to(session, caller, item)
