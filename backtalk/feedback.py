"""What apps say of predictions: corrections and confirmations. Silence is neither."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import statements
from backtalk.callers import Caller
from backtalk.db import parse_id
from backtalk.errors import ImageDeleted, PredictionNotFound, SameLabel, UnknownLabel
from backtalk.events import ConfirmationReceived, CorrectionReceived
from backtalk.failpoints import around_commit
from backtalk.outbox import emit
from backtalk.states import ConfirmationState, CorrectionState
from backtalk.tables import Confirmation, Correction, Image, Model, Prediction


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
        PredictionNotFound, ImageDeleted, UnknownLabel, SameLabel
    """
    prediction, model = _lock_prediction(session, caller, prediction_id)
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
    statements.withdraw_own(session, prediction.id, reporter)
    statements.withdraw_confirmation(session, prediction.id, reporter)
    elsewhere = statements.dispute_elsewhere(session, prediction, label)
    disputed = (
        elsewhere
        or statements.is_decided(session, prediction.id)
        or statements.other_label_stands(session, prediction.id, label)
        or statements.is_confirmed(session, prediction.id)
    )
    if disputed:
        statements.dispute_all(session, prediction.id)
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
        PredictionNotFound, ImageDeleted
    """
    prediction, model = _lock_prediction(session, caller, prediction_id)
    reporter = reporter or caller.name
    statements.withdraw_own(session, prediction.id, reporter)
    present = session.scalar(
        select(Confirmation).where(
            Confirmation.prediction_id == prediction.id, Confirmation.reporter == reporter
        )
    )
    if present is not None and present.state != ConfirmationState.RETRACTED:
        return present
    elsewhere = statements.dispute_elsewhere(session, prediction, prediction.label)
    disputed = (
        elsewhere
        or statements.other_label_stands(session, prediction.id, prediction.label)
        or statements.is_decided(session, prediction.id, against=prediction.label)
    )
    confirmation = present or Confirmation(
        model_id=model.id, prediction_id=prediction.id, reporter=reporter, key_id=caller.key_id
    )
    confirmation.state = ConfirmationState.DISPUTED if disputed else ConfirmationState.ACTIVE
    confirmation.prepared_at = None
    if disputed:
        statements.dispute_all(session, prediction.id)
    session.add(confirmation)
    session.flush()
    emit(session, ConfirmationReceived(model_id=model.id, prediction_id=prediction_id))
    around_commit(session, "feedback")
    return confirmation


def _lock_prediction(session: Session, caller: Caller, prediction_id: str) -> tuple[Prediction, Model]:
    """The prediction's row lock puts all statements about it, and decisions on it, in one order.

    A prediction that was issued to another app looks like one that is not there.
    """
    wanted = parse_id(prediction_id)
    prediction = wanted and session.get(Prediction, wanted, with_for_update=True)
    if not prediction or not statements.may_speak_of(session, caller, prediction):
        raise PredictionNotFound(
            f"No prediction {prediction_id!r} was issued to this key's app. Use the `id` that the prediction "
            "was answered with, and a key of the same name."
        )
    statements.lock_image(session, prediction)
    if session.get_one(Image, prediction.image_id).deleted_at is not None:
        raise ImageDeleted(
            "The picture of this prediction was deleted: nothing can be learned from it any more."
        )
    model = session.get_one(Model, prediction.model_id)
    return prediction, model
