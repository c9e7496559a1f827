"""Who looks at which review item: leases that run out by themselves."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, and_, any_, case, exists, func, literal, or_, select, text
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.errors import ModelNotFound
from backtalk.policy import Policy
from backtalk.rulings import etag_of
from backtalk.states import Action, ItemKind
from backtalk.tables import Correction, Decision, Model, Prediction, ReviewItem

LEASE_S = 300


@dataclass(frozen=True)
class ItemView:
    """An item as a reviewer sees it. `scores` are in the order of the model's labels."""

    item: str
    kind: ItemKind
    correction: str | None
    prediction: str
    predicted: str
    scores: list[float]
    reported: str | None
    reporter: str | None
    note: str | None
    mark: str | None  # why to look twice
    suspicion: float | None  # 0 to 1
    image_id: str
    etag: str  # the literal If-Match value
    lease_until: datetime


def lease_items(session: Session, *, caller: Caller, model_name: str, limit: int = 10) -> list[ItemView]:
    """Lease up to `limit` items to the caller: first those that he holds, then the oldest free ones.

    What he skipped comes last. Under `four_eyes` and `quorum` he gets nothing that he may not decide.

    Raises:
        ModelNotFound
    """
    model = session.scalar(select(Model).where(Model.name == model_name))
    if model is None:
        raise ModelNotFound(f"There is no model {model_name!r}.")
    open_here = and_(ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None))
    held = and_(ReviewItem.leased_by == caller.actor, ReviewItem.lease_until > func.now())
    free = or_(ReviewItem.lease_until.is_(None), ReviewItem.lease_until <= func.now())
    mine = list(
        session.scalars(
            select(ReviewItem).where(open_here, held).order_by(ReviewItem.id).limit(limit).with_for_update()
        )
    )
    if len(mine) < limit:
        statement = (
            select(ReviewItem)
            .where(open_here, free, *_may_decide(Policy.parse(model.policy), caller))
            .order_by(case((literal(caller.actor) == any_(ReviewItem.skipped_by), 1), else_=0), ReviewItem.id)
            .limit(limit - len(mine))
            .with_for_update(skip_locked=True, of=ReviewItem)
        )
        mine += list(session.scalars(statement))
    lease_until = session.scalar(select(func.now() + text(f"interval '{LEASE_S} s'")))
    for item in mine:
        item.leased_by, item.lease_until = caller.actor, lease_until
    session.flush()
    return [_view(session, item) for item in mine]


def _may_decide(policy: Policy, caller: Caller) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if policy.quorum > 1:
        decided = exists().where(
            Decision.item_id == ReviewItem.id,
            Decision.actor == caller.actor,
            Decision.action != Action.SKIP,
        )
        conditions.append(~decided)
    if policy.four_eyes:
        reported_by = [Correction.reporter == caller.name]
        if caller.key_id is not None:
            reported_by.append(Correction.key_id == caller.key_id)
        own = exists().where(Correction.id == ReviewItem.correction_id, or_(*reported_by))
        conditions.append(~own)
    return conditions


def _view(session: Session, item: ReviewItem) -> ItemView:
    prediction = session.get_one(Prediction, item.prediction_id)
    correction = session.get(Correction, item.correction_id) if item.correction_id else None
    assert item.lease_until is not None
    return ItemView(
        item=str(item.id),
        kind=ItemKind(item.kind),
        correction=str(correction.id) if correction else None,
        prediction=str(prediction.id),
        predicted=prediction.label,
        scores=list(prediction.scores),
        reported=item.reported,
        reporter=correction.reporter if correction else None,
        note=correction.note if correction else None,
        mark=correction.mark if correction else None,
        suspicion=correction.suspicion if correction else None,
        image_id=str(prediction.image_id),
        etag=etag_of(item),
        lease_until=item.lease_until,
    )
