"""Taking statements back, and who said what: for the day when a source turns out to be bad."""

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import Field

from backtalk import catalogue, reporters, retraction
from backtalk.states import Scope, Withdrawn
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import answer
from services.api.shapes import Answer, Body, IdempotencyHeader, Line, ModelPath, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "retractions",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="feedback")],
    operation_id_callback=name_operation,
)


class RetractionBody(Body):
    what: Withdrawn
    subject: Line = Field(description="The correction's id, the reporter's name, or the key's id.")
    model: Line | None = Field(None, description="For a reporter alone: withdraw him from this model only.")


class AffectedModel(Answer):
    model: str
    versions: list[int] = Field(description="Those that learned from it, also through their parent.")
    live_version: int | None
    run_due: bool = Field(
        description="The live version learned from withdrawn samples: a run without follows."
    )
    ended_runs: list[str] = Field(description="Active runs that rested on it; they ended `superseded`.")


class RetractionAnswer(Answer):
    """What was taken back just now: zeros where it was withdrawn before."""

    what: Withdrawn
    subject: str
    corrections: int
    confirmations: int
    samples: int
    models: list[AffectedModel]


class SourceShape(Answer):
    key: str = Field(description="The key's id.")
    app: str = Field(description="The key's name; keys of one name are one app.")
    reporters: int = Field(description="Different reporters that it named.")
    corrections: int
    confirmations: int
    pending: int
    disputed: int
    approved: int = Field(description="By a person.")
    approved_by_policy: int
    rejected: int
    retracted: int
    marked: int = Field(description="Corrections that neither the champion nor the neighbours support.")
    weighed: int = Field(description="Corrections that were looked at for that.")
    marked_share: float | None
    answered_by_people: int = Field(description="Statements about images that a person has labelled.")
    contradicted_by_people: int = Field(description="Of them, those that said another label.")
    versions: list[int] = Field(description="Versions whose snapshot holds samples of it.")
    warnings: list[str] = Field(description="Why it deserves a look; empty for most.")


class Sources(Answer):
    items: list[SourceShape]


@blueprint.post(
    "/retractions",
    summary="Withdraw a correction, a reporter or a key",
    responses={200: RetractionAnswer, **problems(400, 404, 409, 413, 415)},
)
@require(Scope.ADMIN)
def create_retraction(header: IdempotencyHeader, body: RetractionBody) -> Response:
    """In one transaction: statements and samples are taken back, and runs that rested on them end.

    Where the live version learned from them, a run without them follows by itself. Twice changes nothing.
    """
    with get_backend().system.db.transaction() as session:

        def withdraw() -> Outcome:
            made = retraction.retract(
                session, caller=g.caller, what=body.what, subject=body.subject, model_name=body.model
            )
            return Outcome(200, RetractionAnswer.model_validate(made))

        return answer_once(session, g.caller, header.idempotency_key, body, withdraw)


@blueprint.get(
    "/models/<name:model>/reporters",
    summary="What each key has said, and how it turned out",
    responses={200: Sources, **problems(404)},
)
@require(Scope.REVIEW)
def list_reporters(path: ModelPath) -> Response:
    """The most doubtful first."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        items = [SourceShape.model_validate(source) for source in reporters.list_sources(session, model)]
    return answer(Sources(items=items), generation=model.generation)
