"""Versions: the list, promotion by a person, rollback."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy.orm import Session

from backtalk import catalogue, champions, interventions, lineage
from backtalk.interventions import Asked, Changed
from backtalk.states import Scope, VersionState
from backtalk.system import System
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import answer
from services.api.shapes import (
    Answer,
    IdempotencyHeader,
    ListOf,
    ModelPath,
    PageQuery,
    VersionPath,
    name_operation,
    problems,
)
from services.backend import get_backend

RETRY_AFTER_S = 1  # a worker takes about so long to publish a version

blueprint = APIBlueprint(
    "versions",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="versions")],
    operation_id_callback=name_operation,
)


class Withdrawal(Answer):
    """A version that learned from samples that were taken back. A person may still promote it."""

    samples: int = Field(description="In its own snapshot.")
    through: int | None = Field(description="The version it is made of in part, and that learned from some.")


class VersionShape(Answer):
    number: int
    state: VersionState
    run: str | None = Field(description="The run that made it.")
    parent: int | None = Field(description="The champion that it was made from.")
    backbone_digest: str
    artefact_digest: str = Field(description="SHA-256 of the artefact's SHA256SUMS.")
    metrics: dict[str, Any]
    anchored_at: datetime | None = Field(description="When it became the anchor that later ones are held to.")
    withdrawn: Withdrawal | None = Field(
        description="What it learned and was withdrawn since, if anything was."
    )
    asked_at: datetime | None = Field(description="When its promotion was asked for that a worker is to do.")
    pruned_at: datetime | None = Field(description="When its SavedModel was removed to save room.")
    created_at: datetime


class Waiting(Answer):
    """This process may not write the store: a worker is about to make the version live, unless the generation
    changes before. `asked_at` of the version is null again when that is settled, and `state` says how: look
    at the list of versions after `Retry-After` seconds.
    """

    model: str
    version: int
    generation: int


class Change(Answer):
    """The live version after a promotion or a rollback."""

    model: str
    version: int
    generation: int


@blueprint.get(
    "/models/<name:model>/versions",
    summary="A model's versions",
    responses={200: ListOf[VersionShape], **problems(400, 404)},
)
@require()
def list_versions(path: ModelPath, query: PageQuery) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        page = catalogue.list_versions(session, model, limit=query.limit, cursor=query.cursor)
        tainted = lineage.find_tainted(session, model.id)
    items = [
        VersionShape(
            number=row.number,
            state=VersionState(row.state),
            run=str(row.run_id) if row.run_id else None,
            parent=row.parent,
            backbone_digest=row.backbone_digest,
            artefact_digest=row.artefact_digest,
            metrics=row.metrics,
            anchored_at=row.anchored_at,
            withdrawn=Withdrawal.model_validate(tainted[row.number]) if row.number in tainted else None,
            asked_at=row.asked_at,
            pruned_at=row.pruned_at,
            created_at=row.created_at,
        )
        for row in page.items
    ]
    return answer(ListOf[VersionShape](items=items, next=page.next), generation=model.generation)


@blueprint.post(
    "/models/<name:model>/versions/<int:number>:promote",
    summary="Make a version live",
    responses={200: Change, 202: Waiting, **problems(404, 409)},
)
@require(Scope.PROMOTE)
def promote_version(path: VersionPath, header: IdempotencyHeader) -> Response:
    """Takes any version whose artefact verifies, unless the gate rejected it."""
    system = get_backend().system

    def promote(session: Session) -> Changed | Asked:
        return interventions.promote_version(
            session, system, model_name=path.model, number=path.number, caller=g.caller
        )

    return _change_once(system, header.idempotency_key, promote)


@blueprint.post(
    "/models/<name:model>:rollback",
    summary="Go back to the version before",
    responses={200: Change, **problems(404, 409)},
)
@require(Scope.PROMOTE)
def rollback_model(path: ModelPath, header: IdempotencyHeader) -> Response:
    """Sets `hold`: nothing is promoted by itself until the policy lifts it.

    Twice goes back twice: send an Idempotency-Key, and a repeat of one call does not.
    """
    system = get_backend().system

    def roll_back(session: Session) -> Changed:
        return interventions.rollback_model(session, system, model_name=path.model, caller=g.caller)

    return _change_once(system, header.idempotency_key, roll_back)


def _change_once(system: System, key: str | None, change: Callable[[Session], Changed | Asked]) -> Response:
    with system.db.transaction() as session:

        def act() -> Outcome:
            made = change(session)
            if isinstance(made, Asked):
                return Outcome(202, Waiting.model_validate(made), made.generation)
            return Outcome(200, Change.model_validate(made), made.generation)

        response = answer_once(session, g.caller, key, (), act)
    if response.status_code == 202:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    champions.rewrite_models_config(system)
    return response
