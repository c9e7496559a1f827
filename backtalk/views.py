"""Open pages that hold leases. What a page asks for may arrive after it was left: then nobody gets it."""

from uuid import UUID

from sqlalchemy import ColumnElement, func, select, text, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backtalk import items
from backtalk.callers import Caller
from backtalk.states import ItemKind
from backtalk.tables import ClosedView, ReviewItem


def is_open(session: Session, view: UUID) -> bool:
    """Whether the page has not been left; it cannot be until the transaction ends."""
    _lock(session, view)
    return session.get(ClosedView, view) is None


def close_view(session: Session, caller: Caller, view: UUID) -> None:
    """Let others have what the page held, and nothing more be leased for it.

    What the caller holds through another page stays.
    """
    _lock(session, view)
    session.execute(insert(ClosedView).values(id=view).on_conflict_do_nothing())
    _free(session, caller, ReviewItem.lease_view == view)


def close_all(session: Session, caller: Caller) -> None:
    """Let others have all that somebody holds who has just left."""
    _free(session, caller, true())


def _free(session: Session, caller: Caller, which: ColumnElement[bool]) -> None:
    rows = session.scalars(
        select(ReviewItem)
        .where(which, ReviewItem.leased_by == caller.actor, ReviewItem.closed_at.is_(None))
        .order_by(ReviewItem.id)
        .with_for_update(skip_locked=True)
    )
    for item in rows:
        items.free(item)
        if item.kind == ItemKind.GOLD:  # it was for this reviewer alone
            item.closed_at = func.now()


def _lock(session: Session, view: UUID) -> None:
    lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:view, 0))")
    session.execute(lock, {"view": f"view {view}"})
