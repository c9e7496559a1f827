"""Models: what there is and what is live, also in the words of TensorFlow Serving's clients."""

from datetime import datetime
from typing import Any

from flask import Response
from flask_openapi import APIBlueprint, Tag
from pydantic import Field

from backtalk import catalogue, live_accuracy
from backtalk.errors import Unavailable
from backtalk.tables import Model
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, ListOf, ModelPath, PageQuery, VersionPath, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "models", __name__, url_prefix="/v1", abp_tags=[Tag(name="models")], operation_id_callback=name_operation
)


class ServingStatus(Answer):
    error_code: str = Field(examples=["OK"])
    error_message: str


class VersionStatus(Answer):
    """What TensorFlow Serving says of a version."""

    version: str
    state: str = Field(description="AVAILABLE, LOADING or END: in this process, now.")
    status: ServingStatus


class ModelShape(Answer):
    model: str
    version: int | None = Field(description="The live version; null until the first is made.")
    generation: int = Field(description="Rises by one with each change of the live version.")
    labels: list[str] = Field(description="`scores` are in this order everywhere.")
    hold: bool = Field(description="While true nothing is promoted by itself.")
    created_at: datetime


class ModelStatus(ModelShape):
    model_version_status: list[VersionStatus]


class AccuracyShape(Answer):
    """What the audits of one version say: predictions drawn at random, before anybody knew."""

    version: int
    drawn: int
    answered: int = Field(description="Those that a person gave a label.")
    right: int = Field(description="Of the answered, those whose label is the predicted one.")
    unclear: int = Field(description="Rejected by a person: no label can be found. In no share.")
    waiting: int = Field(description="Not answered yet. The share is unbiased once none waits.")
    share: float | None = Field(description="right ÷ answered; null until one is answered.")
    low: float | None = Field(description="Wilson's 95 % interval, two-sided.")
    high: float | None


class Accuracy(Answer):
    model: str
    items: list[AccuracyShape] = Field(description="By version, the newest first.")


class ModelSpec(Answer):
    name: str
    signature_name: str = ""
    version: str


class Metadata(ModelStatus):
    model_spec: ModelSpec | None
    metadata: dict[str, Any] = Field(description="How to ask: what `:predict` takes and gives.")


@blueprint.get("/models", summary="All models", responses={200: ListOf[ModelShape], **problems(400)})
@require()
def list_models(query: PageQuery) -> Response:
    with get_backend().system.db.reading() as session:
        page = catalogue.list_models(session, limit=query.limit, cursor=query.cursor)
        return answer(ListOf[ModelShape](items=[_shape(model) for model in page.items], next=page.next))


@blueprint.get(
    "/models/<name:model>", summary="A model and what is live", responses={200: ModelStatus, **problems(404)}
)
@require()
def get_model(path: ModelPath) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
    shape = ModelStatus(**_shape(model).model_dump(), model_version_status=_live_status(model))
    return answer(shape, generation=model.generation)


@blueprint.get(
    "/models/<name:model>/accuracy",
    summary="How often each version is right on live traffic",
    responses={200: Accuracy, **problems(404)},
)
@require()
def get_accuracy(path: ModelPath) -> Response:
    """From answered audits alone: nothing that somebody chose to report is in it."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        found = live_accuracy.find_live_accuracy(session, model)
    items = [AccuracyShape.model_validate(one) for one in found]
    return answer(Accuracy(model=model.name, items=items), generation=model.generation)


@blueprint.get(
    "/models/<name:model>/versions/<int:number>",
    summary="Whether a version is served",
    responses={200: ModelStatus, **problems(404)},
)
@require()
def get_version_status(path: VersionPath) -> Response:
    """`version` is the live one; `model_version_status` speaks of the one asked for."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        version = catalogue.get_version(session, model, path.number)
    status = [_status(model, version.number)]
    return answer(
        ModelStatus(**_shape(model).model_dump(), model_version_status=status), generation=model.generation
    )


@blueprint.get(
    "/models/<name:model>/metadata",
    summary="How to ask a model",
    responses={200: Metadata, **problems(404)},
)
@require()
def get_metadata(path: ModelPath) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
    return answer(_metadata(model, model.live_version), generation=model.generation)


@blueprint.get(
    "/models/<name:model>/versions/<int:number>/metadata",
    summary="How to ask a version",
    responses={200: Metadata, **problems(404)},
)
@require()
def get_version_metadata(path: VersionPath) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        version = catalogue.get_version(session, model, path.number)
    return answer(_metadata(model, version.number), generation=model.generation)


def _shape(model: Model) -> ModelShape:
    return ModelShape(
        model=model.name,
        version=model.live_version,
        generation=model.generation,
        labels=model.labels,
        hold=model.hold,
        created_at=model.created_at,
    )


def _metadata(model: Model, number: int | None) -> Metadata:
    return Metadata(
        **_shape(model).model_dump(),
        model_version_status=[] if number is None else [_status(model, number)],
        model_spec=None if number is None else ModelSpec(name=model.name, version=str(number)),
        metadata={
            "inputs": {"b64": {"formats": ["JPEG", "PNG", "WebP"]}},
            "outputs": {
                "label": {"dtype": "string"},
                "score": {"dtype": "float"},
                "scores": {"dtype": "float", "shape": [len(model.labels)]},
            },
        },
    )


def _live_status(model: Model) -> list[VersionStatus]:
    return [] if model.live_version is None else [_status(model, model.live_version)]


def _status(model: Model, number: int) -> VersionStatus:
    """What this process does with a version: serves it, is about to, or neither."""
    try:
        states = {state.model: state for state in get_backend().live.states()}
    except Unavailable:
        states = {}
    known = states.get(model.name)
    if known is not None and known.version == number:
        return VersionStatus(version=str(number), state="AVAILABLE", status=_OK)
    if model.live_version != number:
        return VersionStatus(version=str(number), state="END", status=_OK)
    if known is not None and known.error:
        failed = ServingStatus(error_code="UNKNOWN", error_message=known.error)
        return VersionStatus(version=str(number), state="END", status=failed)
    return VersionStatus(version=str(number), state="LOADING", status=_OK)


_OK = ServingStatus(error_code="OK", error_message="")
