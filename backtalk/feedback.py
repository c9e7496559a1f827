"""What apps say of predictions: corrections and confirmations. Silence is neither."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.callers import Caller
from backtalk.errors import PredictionNotFound, SameLabel, UnknownLabel
from backtalk.events import ConfirmationReceived, CorrectionReceived
from backtalk.failpoints import around_commit
from backtalk.outbox import emit
from backtalk.states import ConfirmationState, CorrectionState
from backtalk.tables import Confirmation, Correction, Decision, Model, Prediction

OPEN = (CorrectionState.PENDING, CorrectionState.DISPUTED)


def record_correction(
    session: Session,
    *,
    caller: Caller,
    prediction_id: str,
    label: str,
    reporter: str | None = None,
    note: str | None = None,
) -> Correction:
    """Take down that a prediction was wrong, and what is right.

    The same reporter again replaces his own pending statement. Statements that contradict each other, or a
    decision, are disputed.

    Raises:
        PredictionNotFound, UnknownLabel, SameLabel
    """
    prediction, model = _lock_prediction(session, prediction_id)
    if label not in model.labels:
        raise UnknownLabel(
            f"{model.name} has no label {label!r}. Use one of its labels.", labels=list(model.labels)
        )
    if label == prediction.label:
        raise SameLabel(
            f"The prediction was {label!r} already. To say that it was right, post to "
            f"/v1/predictions/{prediction_id}/confirmations."
        )
    reporter = reporter or caller.name
    _withdraw_own(session, prediction.id, reporter)
    _withdraw_confirmation(session, prediction.id, reporter)
    disputed = (
        _is_decided(session, prediction.id)
        or _other_label_stands(session, prediction.id, label)
        or _is_confirmed(session, prediction.id)
    )
    if disputed:
        _dispute_all(session, prediction.id)
    correction = Correction(
        model_id=model.id,
        prediction_id=prediction.id,
        label=label,
        reporter=reporter,
        key_id=caller.key_id,
        note=note,
        state=CorrectionState.DISPUTED if disputed else CorrectionState.PENDING,
    )
    session.add(correction)
    session.flush()
    emit(session, CorrectionReceived(model_id=model.id, prediction_id=prediction_id))
    around_commit(session, "feedback")
    return correction


def record_confirmation(
    session: Session, *, caller: Caller, prediction_id: str, reporter: str | None = None
) -> Confirmation:
    """Take down that a prediction was right. The same reporter again changes nothing.

    Raises:
        PredictionNotFound
    """
    prediction, model = _lock_prediction(session, prediction_id)
    reporter = reporter or caller.name
    _withdraw_own(session, prediction.id, reporter)
    present = session.scalar(
        select(Confirmation).where(
            Confirmation.prediction_id == prediction.id, Confirmation.reporter == reporter
        )
    )
    if present is not None and present.state != ConfirmationState.RETRACTED:
        return present
    disputed = _other_label_stands(session, prediction.id, prediction.label) or _is_decided(
        session, prediction.id, against=prediction.label
    )
    confirmation = present or Confirmation(
        model_id=model.id, prediction_id=prediction.id, reporter=reporter, key_id=caller.key_id
    )
    confirmation.state = ConfirmationState.DISPUTED if disputed else ConfirmationState.ACTIVE
    confirmation.prepared_at = None
    if disputed:
        _dispute_all(session, prediction.id)
    session.add(confirmation)
    session.flush()
    emit(session, ConfirmationReceived(model_id=model.id, prediction_id=prediction_id))
    around_commit(session, "feedback")
    return confirmation


def _lock_prediction(session: Session, prediction_id: str) -> tuple[Prediction, Model]:
    """The prediction's row lock puts all statements about it, and decisions on it, in one order."""
    try:
        wanted = UUID(prediction_id)
    except ValueError:
        wanted = None
    prediction = wanted and session.get(Prediction, wanted, with_for_update=True)
    if not prediction:
        raise PredictionNotFound(
            f"There is no prediction {prediction_id!r}. Use the `id` that the prediction was answered with."
        )
    model = session.get_one(Model, prediction.model_id)
    return prediction, model


def _withdraw_own(session: Session, prediction_id: UUID, reporter: str) -> None:
    """What this reporter said before, and nobody decided, no longer counts."""
    session.execute(
        update(Correction)
        .where(
            Correction.prediction_id == prediction_id,
            Correction.reporter == reporter,
            Correction.state.in_(OPEN),
        )
        .values(state=CorrectionState.RETRACTED)
    )


def _withdraw_confirmation(session: Session, prediction_id: UUID, reporter: str) -> None:
    session.execute(
        update(Confirmation)
        .where(Confirmation.prediction_id == prediction_id, Confirmation.reporter == reporter)
        .values(state=ConfirmationState.RETRACTED, prepared_at=None)
    )


def _is_decided(session: Session, prediction_id: UUID, *, against: str | None = None) -> bool:
    """Whether the newest final decision stands (and, with `against`, says another label)."""
    decision = session.scalar(
        select(Decision)
        .where(Decision.prediction_id == prediction_id, Decision.final)
        .order_by(Decision.id.desc())
        .limit(1)
    )
    return decision is not None and (against is None or decision.label not in (None, against))


def _other_label_stands(session: Session, prediction_id: UUID, label: str) -> bool:
    count = session.scalar(
        select(func.count())
        .select_from(Correction)
        .where(
            Correction.prediction_id == prediction_id,
            Correction.state.in_(OPEN),
            Correction.label != label,
        )
    )
    return bool(count)


def _is_confirmed(session: Session, prediction_id: UUID) -> bool:
    count = session.scalar(
        select(func.count())
        .select_from(Confirmation)
        .where(
            Confirmation.prediction_id == prediction_id,
            Confirmation.state != ConfirmationState.RETRACTED,
        )
    )
    return bool(count)


def _dispute_all(session: Session, prediction_id: UUID) -> None:
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
