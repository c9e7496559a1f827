"""Decisions as rows: written once, never changed. An undo is a row that names the one it withdraws."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session, aliased

from backtalk import audit
from backtalk.callers import POLICY, Caller
from backtalk.states import RULINGS, Action, ItemKind
from backtalk.tables import Decision, Model, ReviewItem

_UNDO = aliased(Decision)


@dataclass(frozen=True)
class Submission:
    """How a decision was sent. `id` is drawn by the sender: sent twice, it is taken down once."""

    id: UUID | None = None
    batch: UUID | None = None


def stands() -> ColumnElement[bool]:
    """Whether a `Decision` was not undone."""
    return ~exists().where(_UNDO.undoes == Decision.id)


def find_repeat(session: Session, caller: Caller, submission: Submission) -> Decision | None:
    """The decision that this very submission made already."""
    if submission.id is None:
        return None
    return session.scalar(
        select(Decision).where(Decision.actor == caller.actor, Decision.request_id == submission.id)
    )


def find_final(
    session: Session, *, item_id: UUID | None = None, prediction_id: UUID | None = None
) -> Decision | None:
    """The last word on an item, or on a prediction whatever the item; none that was undone."""
    about = Decision.item_id == item_id if item_id else Decision.prediction_id == prediction_id
    return session.scalar(
        select(Decision).where(about, Decision.final, stands()).order_by(Decision.id.desc()).limit(1)
    )


def find_last_word(session: Session, item: ReviewItem) -> Decision | None:
    """The decision that an item was closed with. Gold items have no final one: their only answer is it."""
    if item.kind != ItemKind.GOLD:
        return find_final(session, item_id=item.id)
    rulings = list_rulings(session, item.id)
    return rulings[-1] if rulings else None


def list_rulings(session: Session, item_id: UUID) -> list[Decision]:
    """What reviewers said of the item and did not take back, oldest first; skips and flags say nothing."""
    return list(
        session.scalars(
            select(Decision)
            .where(Decision.item_id == item_id, Decision.action.in_(RULINGS), stands())
            .order_by(Decision.id)
        )
    )


def write(
    session: Session,
    item: ReviewItem,
    caller: Caller,
    action: Action,
    label: str | None = None,
    *,
    final: bool = False,
    teaches: bool = True,
    submission: Submission | None = None,
    **values: Any,
) -> Decision:
    """Add the row, and an entry of the audit log for what a person did (skips are no change).

    `teaches` is false where a final decision leaves all that is learned from as it was.
    """
    submission = submission or Submission()
    decision = Decision(
        model_id=item.model_id,
        item_id=item.id,
        prediction_id=item.prediction_id,
        action=action,
        label=label,
        actor=caller.actor,
        final=final,
        counts=final and label is not None and teaches,
        request_id=submission.id,
        batch_id=submission.batch,
        **values,
    )
    session.add(decision)
    session.flush()
    if caller is not POLICY and action != Action.SKIP:
        _log(session, decision)
    return decision


def _log(session: Session, decision: Decision) -> None:
    model = session.get_one(Model, decision.model_id)
    detail = {"decision": decision.id, "item": str(decision.item_id), "label": decision.label}
    if decision.undoes is not None:
        detail["undoes"] = decision.undoes
    if decision.before and "taught" in decision.before:
        detail["taught"] = decision.before["taught"]
    audit.record(session, decision.actor, f"decision.{decision.action}", f"model:{model.name}", **detail)
