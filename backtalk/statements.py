"""What has been said about an image, and what of it contradicts a new statement.

An image may have been predicted on many times, for several apps. Statements about any of these predictions
speak of the same picture, so they are held against each other.
"""

from uuid import UUID

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session, aliased

from backtalk.callers import Caller
from backtalk.dataset import find_live_sample
from backtalk.db import lock_model
from backtalk.decisions import find_final
from backtalk.events import CorrectionReceived
from backtalk.outbox import emit
from backtalk.states import UNDECIDED, ConfirmationState, CorrectionState, Scope
from backtalk.tables import ApiKey, Confirmation, Correction, Prediction


def may_speak_of(session: Session, caller: Caller, prediction: Prediction) -> bool:
    """Whether the prediction was issued to this key or to another key of its app, or the caller is believed.

    Keys of the same name belong to one app: names are given by whoever makes keys, not by who holds them.
    Reviewers may decide about everything anyhow, and a trusted key may report for others.
    """
    if caller.trusted or caller.has(Scope.REVIEW):
        return True
    if caller.key_id is None or prediction.key_id is None:
        return False
    if caller.key_id == prediction.key_id:
        return True
    return session.scalar(select(ApiKey.name).where(ApiKey.id == prediction.key_id)) == caller.name


def lock_image(session: Session, prediction: Prediction) -> None:
    """Puts statements about one picture in one order, whichever prediction they name."""
    lock_model(session, prediction.model_id, f"image {prediction.image_id}")


def withdraw_own(session: Session, prediction_id: UUID, reporter: str) -> None:
    """What this reporter said before, and nobody decided, no longer counts."""
    session.execute(
        update(Correction)
        .where(
            Correction.prediction_id == prediction_id,
            Correction.reporter == reporter,
            Correction.state.in_(UNDECIDED),
        )
        .values(state=CorrectionState.RETRACTED)
    )


def withdraw_confirmation(session: Session, prediction_id: UUID, reporter: str) -> None:
    session.execute(
        update(Confirmation)
        .where(Confirmation.prediction_id == prediction_id, Confirmation.reporter == reporter)
        .values(state=ConfirmationState.RETRACTED, prepared_at=None)
    )


def is_decided(session: Session, prediction_id: UUID, *, against: str | None = None) -> bool:
    """Whether the newest final decision stands (and, with `against`, says another label)."""
    decision = find_final(session, prediction_id=prediction_id)
    return decision is not None and (against is None or decision.label not in (None, against))


def other_label_stands(session: Session, prediction_id: UUID, label: str) -> bool:
    count = session.scalar(
        select(func.count())
        .select_from(Correction)
        .where(
            Correction.prediction_id == prediction_id,
            Correction.state.in_(UNDECIDED),
            Correction.label != label,
        )
    )
    return bool(count)


def is_confirmed(session: Session, prediction_id: UUID) -> bool:
    count = session.scalar(
        select(func.count())
        .select_from(Confirmation)
        .where(
            Confirmation.prediction_id == prediction_id,
            Confirmation.state != ConfirmationState.RETRACTED,
        )
    )
    return bool(count)


def dispute_all(session: Session, prediction_id: UUID) -> None:
    """Every open statement about this prediction waits for a person."""
    session.execute(
        update(Correction)
        .where(Correction.prediction_id == prediction_id, Correction.state == CorrectionState.PENDING)
        .values(state=CorrectionState.DISPUTED)
    )
    session.execute(
        update(Confirmation)
        .where(
            Confirmation.prediction_id == prediction_id,
            Confirmation.state == ConfirmationState.ACTIVE,
        )
        .values(state=ConfirmationState.DISPUTED)
    )


def dispute_elsewhere(session: Session, prediction: Prediction, label: str) -> bool:
    """Whether another prediction on the same image, or the sample that it has, says another label.

    What contradicts there and nobody decided is disputed too, and offered to a reviewer.
    """
    sample = find_live_sample(session, prediction.model_id, prediction.image_id)
    known = sample is not None and sample.prediction_id != prediction.id and sample.label != label
    corrections = list(session.scalars(_corrections_elsewhere(prediction, label)))
    confirmations = list(session.scalars(_confirmations_elsewhere(prediction, label)))
    touched = {c.prediction_id for c in corrections if c.state == CorrectionState.PENDING}
    touched |= {c.prediction_id for c in confirmations if c.state == ConfirmationState.ACTIVE}
    for correction in corrections:
        correction.state = CorrectionState.DISPUTED
    for confirmation in confirmations:
        confirmation.state = ConfirmationState.DISPUTED
    for other in sorted(touched):
        emit(session, CorrectionReceived(model_id=prediction.model_id, prediction_id=str(other)))
    return known or bool(corrections or confirmations)


def _corrections_elsewhere(prediction: Prediction, label: str) -> Select[Correction]:
    other = aliased(Prediction)
    return (
        select(Correction)
        .join(other, other.id == Correction.prediction_id)
        .where(
            other.image_id == prediction.image_id,
            other.model_id == prediction.model_id,
            other.id != prediction.id,
            Correction.state.in_(UNDECIDED),
            Correction.label != label,
        )
        .order_by(Correction.id)
        .with_for_update(of=Correction)
    )


def _confirmations_elsewhere(prediction: Prediction, label: str) -> Select[Confirmation]:
    other = aliased(Prediction)
    return (
        select(Confirmation)
        .join(other, other.id == Confirmation.prediction_id)
        .where(
            other.image_id == prediction.image_id,
            other.model_id == prediction.model_id,
            other.id != prediction.id,
            Confirmation.state != ConfirmationState.RETRACTED,
            other.label != label,
        )
        .order_by(Confirmation.id)
        .with_for_update(of=Confirmation)
    )
