"""The review queue: items leased to the caller, their pictures, and decisions."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from backtalk import catalogue, gold, leases, queues, review, reviewers
from backtalk.catalogue import DEFAULT_LIMIT, MAX_LIMIT
from backtalk.errors import ItemNotFound
from backtalk.states import Action, ItemKind, Queue, Scope
from backtalk.tables import Image, Prediction, ReviewItem
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, Body, Line, ModelPath, name_operation, problems
from services.backend import get_backend
from services.pictures import answer_picture

blueprint = APIBlueprint(
    "review", __name__, url_prefix="/v1", abp_tags=[Tag(name="review")], operation_id_callback=name_operation
)


Asked = Literal[Queue.CORRECTIONS, Queue.DISPUTED, Queue.AUDITS, Queue.UNCERTAIN, Queue.SUSPECTED]


class QueueQuery(BaseModel):
    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    queue: Asked | None = Field(None, description="Without: corrections, disputed and audits, oldest first.")


class ItemPath(BaseModel):
    item: str


class Etag(BaseModel):
    if_match: str | None = Field(
        None, alias="If-Match", max_length=200, description="The item's `etag`, as it came."
    )


class DecisionBody(Body):
    action: Literal[Action.APPROVE, Action.RELABEL, Action.REJECT, Action.SKIP, Action.FLAG]
    label: Line | None = Field(None, description="The right label; for `relabel` alone.")


class Item(Answer):
    item: str
    kind: Literal[ItemKind.CORRECTION, ItemKind.AUDIT, ItemKind.UNCERTAIN, ItemKind.SUSPECTED]
    queue: Asked
    correction: str | None = Field(description="Null unless somebody reported it.")
    prediction: str
    image: str = Field(description="The id of the picture.")
    image_url: str
    predicted: str = Field(description="Of a suspected label: what the other samples speak for.")
    scores: list[float] = Field(
        description="In the order of the model's labels; empty if a device sent none."
    )
    reported: str | None = Field(
        description="The newest reported label, or the training label that is suspected."
    )
    reporter: str | None = Field(description="Who reported it.")
    note: str | None
    mark: str | None = Field(description="Why to look twice: neither the champion nor the neighbours agree.")
    suspicion: float | None = Field(
        description="0: the reported label is likely; 1: nothing speaks for it. Null: not weighed."
    )
    etag: str = Field(description="The literal value for If-Match, quotes included.")
    lease_until: datetime


class Leased(Answer):
    """Oldest first, the caller's own open items before others."""

    items: list[Item]
    labels: list[str] = Field(description="The model's labels, in the order of `scores`.")


class QueueShape(Answer):
    queue: Asked
    size: int = Field(description="Open items.")
    more: bool = Field(description="True where there are more than `size`, at which counting stopped.")
    oldest_at: datetime | None = Field(description="Since when the oldest waits.")
    decided_hour: int = Field(description="Answers of all reviewers in the last hour.")


class Queues(Answer):
    items: list[QueueShape]


class ReviewerShape(Answer):
    actor: str
    rulings: int = Field(description="Answers that stand, gold items not among them.")
    gold: int = Field(description="Gold items answered.")
    gold_right: int
    gold_share: float | None = Field(description="gold_right ÷ gold; null without any.")
    gold_low: float | None = Field(description="Wilson's 95 % interval, two-sided.")
    gold_high: float | None
    shared: int = Field(description="Rulings on settled items that another reviewer ruled on, too.")
    agreed: int = Field(description="Of them, those with the label that was final.")


class Reviewers(Answer):
    items: list[ReviewerShape]


class Decided(Answer):
    item: str
    action: Action
    label: str | None = Field(description="The right label; null for reject and skip.")
    final: bool = Field(description="False for a skip or a flag, and where another reviewer must agree.")


@blueprint.get(
    "/models/<name:model>/review",
    summary="Lease the next items of the review queue",
    responses={200: Leased, **problems(404, 422)},
)
@require(Scope.REVIEW)
def lease_items(path: ModelPath, query: QueueQuery) -> Response:
    """Asking again returns the caller's own open items first, and renews them."""
    with get_backend().system.db.transaction() as session:
        model = catalogue.get_model(session, path.model)
        views = leases.lease_items(
            session, caller=g.caller, model_name=model.name, limit=query.limit, queue=query.queue
        )
        items = [_show(view) for view in views]
        return answer(Leased(items=items, labels=model.labels), generation=model.generation)


@blueprint.get(
    "/models/<name:model>/queues",
    summary="What waits for a reviewer, by queue",
    responses={200: Queues, **problems(404)},
)
@require(Scope.REVIEW)
def list_queues(path: ModelPath) -> Response:
    """`uncertain` is filled when somebody asks for it, so its size says what was drawn and not answered."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        found = queues.measure_queues(session, model, g.caller)
    items = [QueueShape.model_validate(one) for one in found]
    return answer(Queues(items=items), generation=model.generation)


@blueprint.get(
    "/models/<name:model>/reviewers",
    summary="How each reviewer answers",
    responses={200: Reviewers, **problems(404)},
)
@require(Scope.ADMIN)
def list_reviewers(path: ModelPath) -> Response:
    """Measured by gold items, which only an admin hears of, and by agreement with other reviewers."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        found = reviewers.measure_reviewers(session, model)
    items = [ReviewerShape.model_validate(one) for one in found]
    return answer(Reviewers(items=items), generation=model.generation)


@blueprint.post(
    "/review/<name:item>/decisions",
    summary="Decide about an item",
    responses={200: Decided, **problems(400, 404, 409, 412, 413, 415, 428)},
)
@require(Scope.REVIEW)
def decide_item(path: ItemPath, header: Etag, body: DecisionBody) -> Response:
    """Approve: the label in question is right. It is the reported one (correction), the predicted one (audit,
    uncertain) or the one that is trained on (suspected).

    Relabel: another label is right. Reject: nothing to learn here. Skip: give it to somebody else. Flag: give
    it to an expert.
    """
    with get_backend().system.db.transaction() as session:
        made = review.decide_item(
            session,
            caller=g.caller,
            item_id=path.item,
            action=body.action,
            label=body.label,
            if_match=header.if_match,
        )
        final = gold.seems_final(session, made)
        return answer(Decided(item=str(made.item_id), action=made.action, label=made.label, final=final))


@blueprint.get(
    "/review/<name:item>/image",
    summary="The picture of an item, re-encoded",
    responses={
        200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(404),
    },
)
@require(Scope.REVIEW)
def get_image(path: ItemPath) -> Response:
    """Never the file that was sent in: what a stranger uploaded does not reach a browser."""
    with get_backend().system.db.reading() as session:
        row = _find_image(session, path.item)
    return answer_picture(row)


def _show(view: leases.ItemView) -> Item:
    fields = {name: getattr(view, name) for name in Item.model_fields if not name.startswith("image")}
    return Item(**fields, image=view.image_id, image_url=f"/v1/review/{view.item}/image")


def _find_image(session: Session, item: str) -> Image:
    key: UUID | None = catalogue.parse_id(item)
    row = session.get(ReviewItem, key) if key else None
    if row is None:
        raise ItemNotFound(f"There is no review item {item!r}.")
    return session.get_one(Image, session.get_one(Prediction, row.prediction_id).image_id)
