"""What follows from a final decision: for the statements about the prediction, and for its image's sample."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.dataset import Labelled, find_live_sample, put_sample, retract_samples
from backtalk.states import ConfirmationState, CorrectionState, ItemKind, Origin, Side
from backtalk.tables import (
    Confirmation,
    Correction,
    Decision,
    GroupMember,
    ImageGroup,
    Model,
    Prediction,
    ReviewItem,
)


def settle(
    session: Session,
    model: Model,
    prediction: Prediction,
    item: ReviewItem,
    decision: Decision,
    *,
    by_person: bool,
) -> None:
    """Carry a final decision over to statements and sample. The caller holds the prediction's lock."""
    _settle_statements(session, prediction, item, decision)
    _settle_sample(session, model, prediction, item, decision, by_person=by_person)


def _settle_statements(
    session: Session, prediction: Prediction, item: ReviewItem, decision: Decision
) -> None:
    """Approved: it said the right label, or the item is about it and it rightly complained."""
    wrong = decision.label is not None and decision.label != prediction.label
    undecided = session.scalars(
        select(Correction).where(
            Correction.prediction_id == prediction.id,
            Correction.state.in_((CorrectionState.PENDING, CorrectionState.DISPUTED)),
        )
    )
    for correction in undecided:
        right = wrong and (correction.label == decision.label or correction.id == item.correction_id)
        correction.state = CorrectionState.APPROVED if right else CorrectionState.REJECTED
        correction.reviewed_at = func.now()
        correction.decision_id = decision.id
    stands = decision.label == prediction.label
    session.execute(
        update(Confirmation)
        .where(
            Confirmation.prediction_id == prediction.id,
            Confirmation.state != ConfirmationState.RETRACTED,
        )
        .values(state=ConfirmationState.ACTIVE if stands else ConfirmationState.RETRACTED)
    )


def _settle_sample(
    session: Session,
    model: Model,
    prediction: Prediction,
    item: ReviewItem,
    decision: Decision,
    *,
    by_person: bool,
) -> None:
    if decision.label is None:  # rejected: it teaches nothing
        sample = find_live_sample(session, model.id, prediction.image_id)
        if sample is not None and sample.prediction_id == prediction.id:
            retract_samples(session, model.id, prediction.image_id)
        return
    side = find_side(session, model.id, prediction.image_id)
    if side is None:
        return  # straddles: learning from it would leak into the judging sets
    correction = session.get(Correction, item.correction_id) if item.correction_id else None
    if decision.label == prediction.label and not prediction.audit:
        origin = Origin.CONFIRMATION
    else:
        origin = Origin.AUDIT if item.kind == ItemKind.AUDIT else Origin.CORRECTION
    put_sample(
        session,
        model,
        side,
        Labelled(
            prediction.image_id,
            decision.label,
            origin,
            by_person=by_person,
            audited=prediction.audit,
            prediction_id=prediction.id,
            decision_id=decision.id,
            key_id=correction.key_id if correction else prediction.key_id,
        ),
    )


def find_side(session: Session, model_id: int, image_id: UUID) -> Side | None:
    """The side that the image's group was drawn to; None where it straddles or has no group yet."""
    side = session.scalar(
        select(ImageGroup.side)
        .join(GroupMember, GroupMember.group_id == ImageGroup.id)
        .where(GroupMember.model_id == model_id, GroupMember.image_id == image_id)
    )
    return Side(side) if side else None
