"""Who looks at which review item: leases that run out by themselves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, any_, exists, func, literal, or_, select
from sqlalchemy.orm import Session

from backtalk import gold
from backtalk.callers import Caller
from backtalk.decisions import stands
from backtalk.errors import ModelNotFound
from backtalk.items import LEASE_S as LEASE_S  # noqa: PLC0414 - part of what this module offers
from backtalk.items import is_free, lease_to
from backtalk.policy import Policy
from backtalk.queues import counts_in, stands_in
from backtalk.rulings import etag_of
from backtalk.states import RULINGS, ItemKind, Queue, Scope
from backtalk.tables import Correction, Decision, Model, Prediction, ReviewItem, Sample
from backtalk.uncertain import draw_uncertain
from backtalk.views import close_view as close_view  # noqa: PLC0414
from backtalk.views import is_open


@dataclass(frozen=True)
class ItemView:
    """An item as a reviewer sees it. `scores` are in the order of the model's labels."""

    item: str
    kind: ItemKind  # of a gold item: audit
    queue: Queue
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
    flagged_by: str | None  # who asked for an expert
    group: int | None  # of near-duplicates
    created_at: datetime


def lease_items(
    session: Session,
    *,
    caller: Caller,
    model_name: str,
    limit: int = 10,
    queue: Queue | None = None,
    view: UUID | None = None,
) -> list[ItemView]:
    """Lease up to `limit` items to the caller: first those that he holds, then the oldest free ones.

    What he skipped comes last. Under `four_eyes` and `quorum` he gets nothing that he may not decide. What
    was flagged goes to experts alone, and before everything else.

    Args:
        queue: the only one to lease from; without, those of `DAILY_QUEUES`.
        view: the page that asks. If it has been left meanwhile, nothing is leased.

    Raises:
        ModelNotFound
    """
    model = session.scalar(select(Model).where(Model.name == model_name))
    if model is None:
        raise ModelNotFound(f"There is no model {model_name!r}.")
    if view is not None and not is_open(session, view):
        return []
    if queue is Queue.UNCERTAIN:
        draw_uncertain(session, model, limit)
    gold.close_expired(session, model)
    mine = _list_held(session, model, caller, queue, limit)
    most = limit - len(mine)
    fresh = _list_free(session, model, caller, queue, most)
    if queue in (None, Queue.AUDITS):
        fresh = gold.draw_gold(session, model, caller, fresh, most)
    return _lease(session, caller, [*mine, *fresh], view)


def _list_held(
    session: Session, model: Model, caller: Caller, queue: Queue | None, limit: int
) -> list[ReviewItem]:
    rows = select(ReviewItem).where(
        ReviewItem.model_id == model.id,
        ReviewItem.closed_at.is_(None),
        ReviewItem.leased_by == caller.actor,
        ReviewItem.lease_until > func.now(),
        counts_in(queue),
    )
    return list(session.scalars(rows.order_by(ReviewItem.id).limit(limit).with_for_update()))


def _list_free(
    session: Session, model: Model, caller: Caller, queue: Queue | None, limit: int
) -> list[ReviewItem]:
    open_here = and_(ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), stands_in(queue))
    skipped = literal(caller.actor) == any_(ReviewItem.skipped_by)
    turns = [and_(ReviewItem.flagged_at.is_(None), ~skipped), skipped]
    if caller.has(Scope.EXPERT):
        turns.insert(0, and_(ReviewItem.flagged_at.is_not(None), ~skipped))
    found: list[ReviewItem] = []
    # One query a turn: sorted as a whole, a long queue would be read to its end for a handful of items.
    for turn in turns:
        if len(found) < limit:
            free = (open_here, turn, *_may_lease(Policy.parse(model.policy), caller))
            found += session.scalars(
                select(ReviewItem)
                .where(*free)
                .order_by(ReviewItem.id)
                .limit(limit - len(found))
                .with_for_update(skip_locked=True, of=ReviewItem)
            )
    return found


def lease_these(
    session: Session,
    *,
    caller: Caller,
    model: Model,
    item_ids: Sequence[UUID],
    limit: int,
    view: UUID | None = None,
    mix: Callable[[list[ReviewItem]], list[ReviewItem]] | None = None,
) -> list[ItemView]:
    """Lease the first `limit` of these that are his already, or open and free; in their order.

    `mix` may put others among those that are to be leased.
    """
    if view is not None and not is_open(session, view):
        return []
    held = and_(ReviewItem.leased_by == caller.actor, ReviewItem.lease_until > func.now())
    may = and_(*_may_lease(Policy.parse(model.policy), caller))
    rows = session.scalars(
        select(ReviewItem)
        .where(
            ReviewItem.id.in_(item_ids),
            ReviewItem.model_id == model.id,
            ReviewItem.closed_at.is_(None),
            or_(held, may),
        )
        .with_for_update(skip_locked=True, of=ReviewItem)
    )
    places = {item_id: place for place, item_id in enumerate(item_ids)}
    found = sorted(rows, key=lambda item: places[item.id])
    return _lease(session, caller, (mix(found) if mix else found)[:limit], view)


def _lease(session: Session, caller: Caller, rows: Sequence[ReviewItem], view: UUID | None) -> list[ItemView]:
    lease_to(session, caller, *rows, view=view)
    # Read at once what the views below look up one by one.
    ids = [item.prediction_id for item in rows]
    predictions = {p.id: p for p in session.scalars(select(Prediction).where(Prediction.id.in_(ids)))}
    wanted = [item.correction_id for item in rows if item.correction_id]
    corrections = {c.id: c for c in session.scalars(select(Correction).where(Correction.id.in_(wanted)))}
    return [
        _view(item, predictions[item.prediction_id], corrections.get(item.correction_id))  # type: ignore[arg-type]
        for item in rows
    ]


def _may_lease(policy: Policy, caller: Caller) -> list[ColumnElement[bool]]:
    """Free, and the caller's to decide. A suspected label that was replaced meanwhile is no question more."""
    in_question = exists().where(Sample.id == ReviewItem.sample_id, Sample.retracted_at.is_(None))
    conditions: list[ColumnElement[bool]] = [
        is_free(),
        ReviewItem.queue != Queue.GOLD,
        or_(ReviewItem.sample_id.is_(None), in_question),
    ]
    if not caller.has(Scope.EXPERT):
        conditions.append(ReviewItem.flagged_at.is_(None))
    if policy.quorum > 1:
        decided = exists().where(
            Decision.item_id == ReviewItem.id,
            Decision.actor == caller.actor,
            Decision.action.in_(RULINGS),
            stands(),
        )
        conditions.append(~decided)
    if policy.four_eyes:
        reported_by = [Correction.reporter == caller.name]
        if caller.key_id is not None:
            reported_by.append(Correction.key_id == caller.key_id)
        own = exists().where(Correction.id == ReviewItem.correction_id, or_(*reported_by))
        conditions.append(~own)
    return conditions


def _view(item: ReviewItem, prediction: Prediction, correction: Correction | None) -> ItemView:
    assert item.lease_until is not None
    return ItemView(
        item=str(item.id),
        kind=ItemKind.AUDIT if item.kind == ItemKind.GOLD else ItemKind(item.kind),
        queue=Queue.AUDITS if item.queue == Queue.GOLD else Queue(item.queue),
        correction=str(correction.id) if correction else None,
        prediction=str(prediction.id),
        predicted=item.predicted,
        scores=list(item.scores or prediction.scores),
        reported=item.reported,
        reporter=correction.reporter if correction else None,
        note=correction.note if correction else None,
        mark=correction.mark if correction else item.mark,
        suspicion=correction.suspicion if correction else _suspicion_of(item),
        image_id=str(prediction.image_id),
        etag=etag_of(item),
        lease_until=item.lease_until,
        flagged_by=item.flagged_by,
        group=item.group_id,
        created_at=item.created_at,
    )


def _suspicion_of(item: ReviewItem) -> float | None:
    return item.doubt if item.kind == ItemKind.SUSPECTED else None
