"""What people decided, beside what was predicted: the raw material of every look at a model's errors."""

from datetime import datetime

from flask import Response
from flask_openapi import APIBlueprint, Tag
from pydantic import Field

from backtalk import catalogue
from backtalk.states import Action, ItemKind, Scope
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, ListOf, ModelPath, PageQuery, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "decisions",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="review")],
    operation_id_callback=name_operation,
)


class DecisionShape(Answer):
    """A prediction, and what would have been right."""

    id: str
    kind: ItemKind = Field(
        description="An `audit` was drawn at random: audits alone tell how often the model is right. "
        "A `correction` is there because somebody thought that it was wrong."
    )
    action: Action
    label: str = Field(description="The right label.")
    actor: str = Field(description="Who decided: `user:…`, `key:…`, or `policy`.")
    reporter: str | None = Field(description="Who reported it; null for an audit.")
    decided_at: datetime
    prediction: str
    predicted: str
    scores: list[float] = Field(
        description="In the order of the model's labels; empty if a device sent none."
    )
    version: int = Field(description="The version that made the prediction.")
    made_elsewhere: bool = Field(description="By a device, which reported it.")
    predicted_at: datetime
    image: str = Field(description="The id of the picture.")
    image_url: str


@blueprint.get(
    "/models/<name:model>/decisions",
    summary="Predictions of which somebody decided what is right",
    responses={200: ListOf[DecisionShape], **problems(400, 404)},
)
@require(Scope.REVIEW)
def list_decisions(path: ModelPath, query: PageQuery) -> Response:
    """Newest first. Decisions that were undone, that teach nothing or were withdrawn are left out."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        page = catalogue.list_decided(session, model, limit=query.limit, cursor=query.cursor)
    items = [_show(one) for one in page.items]
    return answer(ListOf[DecisionShape](items=items, next=page.next), generation=model.generation)


def _show(one: catalogue.DecidedPrediction) -> DecisionShape:
    decision, prediction = one.decision, one.prediction
    assert decision.label is not None  # those that count name one
    return DecisionShape(
        id=str(decision.id),
        kind=ItemKind(one.kind),
        action=Action(decision.action),
        label=decision.label,
        actor=decision.actor,
        reporter=one.reporter,
        decided_at=decision.created_at,
        prediction=str(prediction.id),
        predicted=prediction.label,
        scores=list(prediction.scores),
        version=prediction.version,
        made_elsewhere=prediction.made_elsewhere,
        predicted_at=prediction.created_at,
        image=str(prediction.image_id),
        image_url=f"/v1/review/{decision.item_id}/image",
    )
