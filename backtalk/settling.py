"""What follows from a final decision: for the statements about the prediction, and for its image's sample."""

from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.dataset import Labelled, find_live_sample, put_sample, retract_samples
from backtalk.states import UNDECIDED, ConfirmationState, CorrectionState, ItemKind, Origin, Side
from backtalk.tables import (
    Confirmation,
    Correction,
    Decision,
    GroupMember,
    Image,
    ImageGroup,
    Model,
    Prediction,
    ReviewItem,
    Sample,
)

#: Of a sample that is revived.
_KEPT = (
    *("model_id", "image_id", "label", "split", "origin"),
    *("by_person", "prediction_id", "decision_id", "key_id"),
)


def remember(session: Session, prediction: Prediction) -> dict[str, Any]:
    """What a final decision is about to change: states by statement, and the image's live sample."""
    corrections = session.scalars(
        select(Correction).where(Correction.prediction_id == prediction.id, Correction.state.in_(UNDECIDED))
    )
    confirmations = session.scalars(select(Confirmation).where(Confirmation.prediction_id == prediction.id))
    sample = find_live_sample(session, prediction.model_id, prediction.image_id)
    return {
        "corrections": {str(row.id): row.state for row in corrections},
        "confirmations": {str(row.id): row.state for row in confirmations},
        "sample": sample.id if sample else None,
    }


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
            Correction.state.in_(UNDECIDED),
        )
    )
    for correction in undecided:
        right = wrong and (correction.label == decision.label or correction.id == item.correction_id)
        correction.state = CorrectionState.APPROVED if right else CorrectionState.REJECTED
        correction.reviewed_at = func.now()
        correction.decision_id = decision.id
    session.execute(
        update(Confirmation)
        .where(
            Confirmation.prediction_id == prediction.id,
            Confirmation.state != ConfirmationState.RETRACTED,
        )
        .values(state=_confirmed_state(prediction, decision))
    )


def _confirmed_state(prediction: Prediction, decision: Decision) -> ConfirmationState:
    """What a decision makes of those who said that the prediction was right."""
    right = decision.label == prediction.label
    return ConfirmationState.ACTIVE if right else ConfirmationState.RETRACTED


def _settle_sample(
    session: Session,
    model: Model,
    prediction: Prediction,
    item: ReviewItem,
    decision: Decision,
    *,
    by_person: bool,
) -> None:
    if item.kind == ItemKind.SUSPECTED:
        _settle_suspected(session, model, item, decision)
        return
    if decision.label is None:  # rejected: it teaches nothing
        sample = find_live_sample(session, model.id, prediction.image_id)
        if sample is not None and sample.prediction_id == prediction.id:
            retract_samples(session, model.id, prediction.image_id)
        return
    side = find_side(session, model.id, prediction.image_id)
    if side is None or (side is Side.EVAL and item.kind == ItemKind.UNCERTAIN):
        return  # straddles: learning from it would leak into the judging sets; uncertain: it would bias them
    correction = session.get(Correction, item.correction_id) if item.correction_id else None
    put_sample(
        session,
        model,
        side,
        Labelled(
            prediction.image_id,
            decision.label,
            _choose_origin(prediction, item, decision),
            by_person=by_person,
            audited=prediction.audit,
            prediction_id=prediction.id,
            decision_id=decision.id,
            key_id=correction.key_id if correction else prediction.key_id,
        ),
    )


def _choose_origin(prediction: Prediction, item: ReviewItem, decision: Decision) -> Origin:
    if item.kind == ItemKind.UNCERTAIN:
        return Origin.UNCERTAIN
    if decision.label == prediction.label and not prediction.audit:
        return Origin.CONFIRMATION
    return Origin.AUDIT if item.kind == ItemKind.AUDIT else Origin.CORRECTION


def _settle_suspected(session: Session, model: Model, item: ReviewItem, decision: Decision) -> None:
    """A training label stands, is replaced, or teaches nothing more.

    It lies on the train side and stays there: no judging set, and no verdict that one gave, is touched.
    """
    sample = session.get_one(Sample, item.sample_id)
    if decision.label is None:
        retract_samples(session, model.id, sample.image_id)
    elif decision.label != sample.label or not sample.by_person:
        put_sample(
            session,
            model,
            Side.TRAIN,
            Labelled(
                sample.image_id,
                decision.label,
                Origin(sample.origin),
                by_person=True,
                audited=False,
                prediction_id=sample.prediction_id,
                decision_id=decision.id,
                key_id=sample.key_id,
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


def unsettle(session: Session, prediction: Prediction, decision: Decision) -> Sample | None:
    """Put statements and sample back as they were before a final decision that is being undone.

    Returns the sample that is there again, as a row of its own; None where none was replaced.

    What changed since by other hands (a confirmation withdrawn, a new label for the image) stays as it is.
    """
    before = decision.before or {}
    _restore_statements(session, prediction, decision, before)
    live = find_live_sample(session, prediction.model_id, prediction.image_id, for_update=True)
    if live is not None and live.decision_id == decision.id:
        retract_samples(session, prediction.model_id, prediction.image_id)
        session.flush()
        live = None
    if live is None and before.get("sample"):
        return _revive_sample(session, before["sample"])
    return None


def _restore_statements(
    session: Session, prediction: Prediction, decision: Decision, before: dict[str, Any]
) -> None:
    for correction in session.scalars(select(Correction).where(Correction.decision_id == decision.id)):
        if correction.state != CorrectionState.RETRACTED:
            correction.state = before["corrections"][str(correction.id)]
            correction.reviewed_at = correction.decision_id = None
    made = _confirmed_state(prediction, decision)
    for row_id, state in before.get("confirmations", {}).items():
        confirmation = session.get(Confirmation, UUID(row_id))
        if confirmation is not None and confirmation.state == made:
            confirmation.state = state


def _revive_sample(session: Session, sample_id: int) -> Sample | None:
    """A new row like the one that was replaced: rows that were retracted stay so."""
    old = session.get_one(Sample, sample_id)
    if old.retraction_id is not None or session.get_one(Image, old.image_id).deleted_at is not None:
        return None
    revived = Sample(**{name: getattr(old, name) for name in _KEPT})
    session.add(revived)
    session.flush()
    return revived
