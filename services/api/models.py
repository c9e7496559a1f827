"""Models: what there is and what is live, also in the words of TensorFlow Serving's clients."""

from datetime import datetime
from typing import Any

from flask import Response
from flask_openapi import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy.orm import Session

from backtalk import catalogue, live_accuracy
from backtalk.errors import NotFound, Unavailable
from backtalk.signatures import describe_signatures
from backtalk.tables import Backbone, Model, Version
from services.api.auth import require
from services.api.intake import answer
from services.api.servables import Label, LabelPath, ServablePath, check_number, find_labelled
from services.api.shapes import Answer, ListOf, ModelPath, PageQuery, name_operation, problems
from services.api.tensors import write_signature_map
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
    metadata: dict[str, Any] = Field(description="`signature_def`: what `:predict` takes and gives.")


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
    responses={200: ModelStatus, **problems(400, 404)},
)
@require()
def get_version_status(path: ServablePath) -> Response:
    """`version` is the live one; `model_version_status` speaks of the one asked for."""
    check_number(path.number)
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        version = catalogue.get_version(session, model, path.number)
    status = [_status(model, version.number)]
    return answer(
        ModelStatus(**_shape(model).model_dump(), model_version_status=status), generation=model.generation
    )


@blueprint.get(
    "/models/<name:model>/labels/<name:label>",
    summary="Whether the version with a label is served",
    responses={200: ModelStatus, **problems(400, 404)},
)
@require()
def get_label_status(path: LabelPath) -> Response:
    """`live`, or `previous`, which is held for a rollback at once."""
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
    status = [_status(model, _find_number(model, path.label))]
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
        version = model.live_version and catalogue.get_version(session, model, model.live_version)
        made = _metadata(session, model, version or None)
    return answer(made, generation=model.generation)


@blueprint.get(
    "/models/<name:model>/versions/<int:number>/metadata",
    summary="How to ask a version",
    responses={200: Metadata, **problems(400, 404)},
)
@require()
def get_version_metadata(path: ServablePath) -> Response:
    check_number(path.number)
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        made = _metadata(session, model, catalogue.get_version(session, model, path.number))
    return answer(made, generation=model.generation)


@blueprint.get(
    "/models/<name:model>/labels/<name:label>/metadata",
    summary="How to ask the version with a label",
    responses={200: Metadata, **problems(400, 404)},
)
@require()
def get_label_metadata(path: LabelPath) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        number = _find_number(model, path.label)
        made = _metadata(session, model, catalogue.get_version(session, model, number))
    return answer(made, generation=model.generation)


def _shape(model: Model) -> ModelShape:
    return ModelShape(
        model=model.name,
        version=model.live_version,
        generation=model.generation,
        labels=model.labels,
        hold=model.hold,
        created_at=model.created_at,
    )


def _metadata(session: Session, model: Model, version: Version | None) -> Metadata:
    if version is None:
        return Metadata(**_shape(model).model_dump(), model_version_status=[], model_spec=None, metadata={})
    backbone = session.get_one(Backbone, version.backbone_digest)
    signatures = describe_signatures(
        size=backbone.input_size, width=backbone.width, classes=len(model.labels)
    )
    return Metadata(
        **_shape(model).model_dump(),
        model_version_status=[_status(model, version.number)],
        model_spec=ModelSpec(name=model.name, version=str(version.number)),
        metadata={"signature_def": write_signature_map(signatures)},
    )


def _live_status(model: Model) -> list[VersionStatus]:
    """The live version, and after it what this process holds beside it."""
    if model.live_version is None:
        return []
    numbers = [model.live_version]
    numbers += _held_numbers(model.name)
    return [_status(model, number) for number in dict.fromkeys(numbers)]


def _find_number(model: Model, label: str) -> int:
    """The version with that label. The live one has its own also where it does not load."""
    if label == Label.LIVE and model.live_version is not None:
        return model.live_version
    return find_labelled(model.name, label).number


def _held_numbers(name: str) -> list[int]:
    try:
        return [held.number for held in get_backend().live.versions.list_held(name)]
    except (NotFound, Unavailable):
        return []


def _status(model: Model, number: int) -> VersionStatus:
    """What this process does with a version: serves it, is about to, or neither."""
    try:
        states = {state.model: state for state in get_backend().live.states()}
    except Unavailable:
        states = {}
    known = states.get(model.name)
    if number in _held_numbers(model.name):
        return VersionStatus(version=str(number), state="AVAILABLE", status=_OK)
    if model.live_version != number:
        return VersionStatus(version=str(number), state="END", status=_OK)
    if known is not None and known.error:
        failed = ServingStatus(error_code="UNKNOWN", error_message=known.error)
        return VersionStatus(version=str(number), state="END", status=failed)
    return VersionStatus(version=str(number), state="LOADING", status=_OK)


_OK = ServingStatus(error_code="OK", error_message="")
