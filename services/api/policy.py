"""The policy of a model: when to train, whom to believe, how strictly to judge."""

from flask import Response, abort, g
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from backtalk import catalogue, triggers
from backtalk.policy import Policy
from backtalk.states import Scope
from backtalk.tables import Model
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import ModelPath, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "policy", __name__, url_prefix="/v1", abp_tags=[Tag(name="policy")], operation_id_callback=name_operation
)


class Etag(BaseModel):
    if_match: str | None = Field(
        None, alias="If-Match", max_length=200, description="The ETag of the policy that was read; optional."
    )


@blueprint.get(
    "/models/<name:model>/policy", summary="A model's policy", responses={200: Policy, **problems(404)}
)
@require()
def get_policy(path: ModelPath) -> Response:
    with get_backend().system.db.reading() as session:
        return _answer(catalogue.get_model(session, path.model))


@blueprint.put(
    "/models/<name:model>/policy",
    summary="Replace a model's policy",
    responses={200: Policy, **problems(400, 404, 412, 413, 415)},
)
@require(Scope.ADMIN)
def set_policy(path: ModelPath, header: Etag, body: Policy) -> Response:
    """What is left out goes back to its default, except `hold`, which stays until it is named.

    With If-Match, only if nobody changed the policy meanwhile.
    """
    with get_backend().system.db.transaction() as session:
        model = _lock(session, catalogue.get_model(session, path.model))
        if header.if_match not in {None, "*", _etag(model)}:
            abort(412, "Somebody else changed the policy since you read it; read it again.")
        changes = body.model_dump(mode="json", exclude_unset=True)
        triggers.set_policy(session, model, changes, g.caller, replace=True)
        session.flush()
        return _answer(model)


def _lock(session: Session, model: Model) -> Model:
    return session.get_one(Model, model.id, with_for_update={"key_share": True}, populate_existing=True)


def _etag(model: Model) -> str:
    return f'"{model.policy_version}"'


def _answer(model: Model) -> Response:
    return answer(triggers.get_policy(model), generation=model.generation, etag=_etag(model))
