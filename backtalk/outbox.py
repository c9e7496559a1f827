"""Events wait here, committed with the rows they speak of, until the relay has rung for them."""

from collections.abc import Iterable

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.events import Event
from backtalk.tables import OutboxEvent


def emit(session: Session, *events: Event) -> None:
    """Put events beside the caller's rows: both are committed, or neither."""
    for event in events:
        session.add(OutboxEvent(event=event.name, payload=event.payload()))


def take_unpublished(session: Session, limit: int = 100) -> list[OutboxEvent]:
    """The oldest unpublished events, locked so that a second relay passes them by."""
    statement = (
        select(OutboxEvent)
        .where(OutboxEvent.published_at.is_(None))
        .order_by(OutboxEvent.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(statement))


def mark_published(session: Session, events: Iterable[OutboxEvent]) -> None:
    ids = [event.id for event in events]
    session.execute(update(OutboxEvent).where(OutboxEvent.id.in_(ids)).values(published_at=func.now()))


def measure_backlog(session: Session) -> tuple[int, float]:
    """How many events wait for the relay, and how long the oldest has, in seconds of the database's clock."""
    oldest = func.min(OutboxEvent.created_at)
    age_s = func.extract("epoch", func.clock_timestamp() - oldest)
    waiting, seconds = session.execute(
        select(func.count(), age_s).where(OutboxEvent.published_at.is_(None))
    ).one()
    return waiting, max(0.0, float(seconds or 0.0))
