"""Review items: what is offered to reviewers. At most one is open per prediction."""

from uuid import UUID

from sqlalchemy import ColumnElement, exists, func, or_, select, text
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.decisions import stands
from backtalk.states import UNDECIDED, ConfirmationState, CorrectionState, ItemKind, Queue
from backtalk.tables import Confirmation, Correction, Decision, GroupMember, Model, Prediction, ReviewItem

LEASE_S = 300
#: Who flags an item that two reviewers answered differently.
DISAGREEMENT = "quorum"
#: Items that stay until a person has answered them, whatever is said of their prediction.
_STAYING = (ItemKind.AUDIT, ItemKind.SUSPECTED, ItemKind.GOLD)
_QUEUES = {
    ItemKind.CORRECTION: Queue.CORRECTIONS,
    ItemKind.AUDIT: Queue.AUDITS,
    ItemKind.UNCERTAIN: Queue.UNCERTAIN,
    ItemKind.SUSPECTED: Queue.SUSPECTED,
    ItemKind.GOLD: Queue.GOLD,
}


def find_open_item(session: Session, prediction_id: UUID) -> ReviewItem | None:
    return session.scalar(
        select(ReviewItem)
        .where(ReviewItem.prediction_id == prediction_id, ReviewItem.closed_at.is_(None))
        .with_for_update()
    )


def find_newest_statement(session: Session, prediction_id: UUID) -> Correction | None:
    """The newest correction that nobody has decided."""
    return session.scalar(
        select(Correction)
        .where(Correction.prediction_id == prediction_id, Correction.state.in_(UNDECIDED))
        .order_by(Correction.id.desc())
        .limit(1)
    )


def offer(session: Session, prediction: Prediction) -> ReviewItem | None:
    """Bring the prediction's open item in line with what has been said of it; the item, if one is wanted.

    A correction that arrives later changes the open item and its etag. An audited prediction stays until a
    person has answered it.
    """
    item = find_open_item(session, prediction.id)
    newest = find_newest_statement(session, prediction.id)
    if newest is None and item is not None and item.kind in _STAYING:
        refile(session, item)
        return item
    if newest is None and not _wants_person(session, prediction):
        if item is not None:
            item.closed_at = func.now()
        return None
    kind = ItemKind.AUDIT if newest is None else ItemKind.CORRECTION
    if item is None:
        item = ReviewItem(model_id=prediction.model_id, prediction_id=prediction.id, etag=1)
    elif item.correction_id != (newest and newest.id):
        item.etag += 1
    item.kind, item.sample_id, item.scores, item.mark = kind, None, None, None
    describe(session, item, prediction, newest)
    session.add(item)
    session.flush()
    return item


def put(session: Session, prediction: Prediction, kind: ItemKind) -> ReviewItem:
    """A new item that no statement stands behind; the caller knows that none is open."""
    item = ReviewItem(model_id=prediction.model_id, prediction_id=prediction.id, kind=kind, etag=1)
    describe(session, item, prediction, None)
    session.add(item)
    session.flush()
    return item


def describe(
    session: Session, item: ReviewItem, prediction: Prediction, correction: Correction | None
) -> None:
    """Copy into the row what the queue is sorted and filtered by."""
    model = session.get_one(Model, prediction.model_id)
    item.correction_id = correction.id if correction else None
    item.reported = correction.label if correction else None
    item.reporter = correction.reporter if correction else None
    item.predicted = prediction.label
    first, second = [*sorted(prediction.scores, reverse=True), 0.0, 0.0][:2]
    item.margin = first - second
    asked = item.reported or prediction.label
    item.doubt = 1 - dict(zip(model.labels, prediction.scores, strict=False)).get(asked, 0.0)
    if correction is not None and correction.suspicion is not None:
        item.doubt = correction.suspicion
    member = session.get(GroupMember, (prediction.model_id, prediction.image_id))
    item.group_id = member.group_id if member else None
    refile(session, item)


def refile(session: Session, item: ReviewItem) -> None:
    """Into the queue where it belongs by now."""
    item.queue = _choose_queue(session, item)


def _choose_queue(session: Session, item: ReviewItem) -> Queue:
    usual = _QUEUES[ItemKind(item.kind)]
    if usual not in (Queue.CORRECTIONS, Queue.AUDITS):
        return usual
    disputed = item.flagged_by == DISAGREEMENT or is_disputed(session, item.prediction_id)
    return Queue.DISPUTED if disputed else usual


def is_disputed(session: Session, prediction_id: UUID) -> bool:
    """Whether open statements about the prediction contradict each other, or those about its image."""
    corrected = exists().where(
        Correction.prediction_id == prediction_id, Correction.state == CorrectionState.DISPUTED
    )
    confirmed = exists().where(
        Confirmation.prediction_id == prediction_id, Confirmation.state == ConfirmationState.DISPUTED
    )
    return bool(session.scalar(select(corrected | confirmed)))


def lease_to(session: Session, caller: Caller, *rows: ReviewItem, view: UUID | None = None) -> None:
    """Nobody else is offered these items for `LEASE_S` seconds; `view` is the open page that they are for."""
    until = session.scalar(select(func.now() + text(f"interval '{LEASE_S} s'")))
    for item in rows:
        item.leased_by, item.lease_until, item.lease_view = caller.actor, until, view
    session.flush()


def is_free() -> ColumnElement[bool]:
    """Whether nobody is looking at a `ReviewItem`."""
    return or_(ReviewItem.lease_until.is_(None), ReviewItem.lease_until <= func.now())


def free(item: ReviewItem) -> None:
    """Let anybody have it."""
    item.leased_by = item.lease_until = item.lease_view = None


def offer_audit(session: Session, prediction: Prediction) -> None:
    """Ask a person whether this prediction is right, unless it is being asked already."""
    if find_open_item(session, prediction.id) is None:
        put(session, prediction, ItemKind.AUDIT)


def _wants_person(session: Session, prediction: Prediction) -> bool:
    decided = exists().where(
        Decision.prediction_id == prediction.id, Decision.final, Decision.actor != "policy", stands()
    )
    if prediction.audit and not session.scalar(select(decided)):
        return True
    disputed = exists().where(
        Confirmation.prediction_id == prediction.id, Confirmation.state == ConfirmationState.DISPUTED
    )
    return bool(session.scalar(select(disputed)))
