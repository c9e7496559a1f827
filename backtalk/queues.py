"""The queues of a model: what stands in each, since when, and how fast it is worked off."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.decisions import stands
from backtalk.states import DAILY_QUEUES, OFFERED_QUEUES, RULINGS, Queue, Scope
from backtalk.tables import Decision, Model, ReviewItem

COUNTED_MOST = 10_000  # items of one queue: nobody needs it more exactly


@dataclass(frozen=True)
class QueueState:
    """One queue as a reviewer sees it."""

    queue: Queue
    size: int  # open items, counted up to `COUNTED_MOST`
    more: bool  # whether there are more than that
    oldest_at: datetime | None  # since when the oldest waits
    decided_hour: int  # rulings of all reviewers in the last hour, less those taken back


def stands_in(queue: Queue | None) -> ColumnElement[bool]:
    """Whether a `ReviewItem` is offered to somebody who asked for this queue, or for none."""
    if queue is not None:
        return ReviewItem.queue == queue
    return ReviewItem.queue.in_(DAILY_QUEUES)


def counts_in(queue: Queue | None) -> ColumnElement[bool]:
    """As `stands_in`, with the gold items that pass for audits: a reviewer must not find out by counting."""
    if queue in (None, Queue.AUDITS):
        return or_(stands_in(queue), ReviewItem.queue == Queue.GOLD)
    return stands_in(queue)


def measure_queues(session: Session, model: Model, caller: Caller) -> list[QueueState]:
    """All queues that can be asked for: bounded counts over an index, whatever their length.

    What was flagged is counted for experts alone.
    """
    decided = _count_decided(session, model)
    states = []
    for queue in OFFERED_QUEUES:
        rows = select(ReviewItem.id).where(
            ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), counts_in(queue)
        )
        if not caller.has(Scope.EXPERT):
            rows = rows.where(ReviewItem.flagged_at.is_(None))
        size = session.scalar(select(func.count()).select_from(rows.limit(COUNTED_MOST + 1).subquery())) or 0
        states.append(
            QueueState(
                queue=queue,
                size=min(size, COUNTED_MOST),
                more=size > COUNTED_MOST,
                oldest_at=_find_oldest(session, model, queue) if size else None,
                decided_hour=decided.get(queue, 0),
            )
        )
    return states


def _find_oldest(session: Session, model: Model, queue: Queue) -> datetime | None:
    """Ids are ordered by time."""
    return session.scalar(
        select(ReviewItem.created_at)
        .where(ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), ReviewItem.queue == queue)
        .order_by(ReviewItem.id)
        .limit(1)
    )


def _count_decided(session: Session, model: Model) -> dict[str, int]:
    rows = session.execute(
        select(ReviewItem.queue, func.count())
        .join(Decision, Decision.item_id == ReviewItem.id)
        .where(
            Decision.model_id == model.id,
            Decision.created_at > func.now() - text("interval '1 hour'"),
            Decision.action.in_(RULINGS),
            Decision.actor != "policy",
            stands(),
        )
        .group_by(ReviewItem.queue)
    )
    counted = {row[0]: row[1] for row in rows}
    counted[Queue.AUDITS] = counted.get(Queue.AUDITS, 0) + counted.pop(Queue.GOLD, 0)
    return counted
