"""Talking back: corrections, confirmations, and the receipt of what became of a correction."""

from datetime import datetime

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field

from backtalk import feedback, receipts
from backtalk.states import ConfirmationState, CorrectionState, Scope
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import answer, body_may_be_missing
from services.api.shapes import Answer, Body, IdempotencyHeader, Line, Note, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "feedback",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="feedback")],
    operation_id_callback=name_operation,
)


class PredictionPath(BaseModel):
    prediction: str = Field(description="The `id` that the prediction was answered with.")


class CorrectionPath(BaseModel):
    correction: str


class CorrectionBody(Body):
    label: Line = Field(description="The right label, one of the model's.")
    reporter: Line | None = Field(None, description="Who says so; the key's name if missing.")
    note: Note | None = None


class ConfirmationBody(Body):
    reporter: Line | None = Field(None, description="Who says so; the key's name if missing.")


class Stated(Answer):
    id: str
    state: CorrectionState


class Confirmed(Answer):
    id: str
    state: ConfirmationState


class Receipt(Answer):
    """What became of a correction."""

    id: str
    state: CorrectionState
    image: str = Field(description="The id of the picture.")
    label: str
    reviewed_at: datetime | None = None
    split: str | None = Field(
        None,
        description="What its image may be used for: train, validation, regression, …; or why it has none.",
    )
    trained_in: int | None = Field(
        None, description="First version that learned from it; null on the side that is only judged on."
    )
    live_in: int | None = Field(None, description="First live version that learned from it.")
    fixed_now: bool | None = Field(None, description="Whether the live version reads its image as `label`.")


@blueprint.post(
    "/predictions/<name:prediction>/corrections",
    summary="Say that a prediction was wrong, and what is right",
    responses={201: Stated, **problems(400, 404, 409, 413, 415, 429)},
)
@require(Scope.FEEDBACK)
def create_correction(path: PredictionPath, header: IdempotencyHeader, body: CorrectionBody) -> Response:
    """The same reporter again replaces his own pending statement; statements that differ are disputed."""
    with get_backend().system.db.transaction() as session:

        def record() -> Outcome:
            made = feedback.record_correction(
                session,
                caller=g.caller,
                prediction_id=path.prediction,
                label=body.label,
                reporter=body.reporter,
                note=body.note,
            )
            return Outcome(201, Stated(id=str(made.id), state=CorrectionState(made.state)))

        return answer_once(session, g.caller, header.idempotency_key, body, record)


@blueprint.post(
    "/predictions/<name:prediction>/confirmations",
    summary="Say that a prediction was right",
    request_body={
        "required": False,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ConfirmationBody"}}},
    },
    responses={201: Confirmed, **problems(400, 404, 409, 413, 415, 429)},
)
@require(Scope.FEEDBACK)
@body_may_be_missing
def create_confirmation(path: PredictionPath, header: IdempotencyHeader, body: ConfirmationBody) -> Response:
    """The same reporter again changes nothing."""
    with get_backend().system.db.transaction() as session:

        def record() -> Outcome:
            made = feedback.record_confirmation(
                session, caller=g.caller, prediction_id=path.prediction, reporter=body.reporter
            )
            return Outcome(201, Confirmed(id=str(made.id), state=ConfirmationState(made.state)))

        return answer_once(session, g.caller, header.idempotency_key, body, record)


@blueprint.get(
    "/corrections/<name:correction>",
    summary="The receipt: what became of a correction",
    responses={200: Receipt, **problems(404)},
)
@require()
def get_receipt(path: CorrectionPath) -> Response:
    backend = get_backend()
    with backend.system.db.reading() as session:
        return answer(
            Receipt.model_validate(receipts.get_receipt(session, backend.system.versions, path.correction))
        )
