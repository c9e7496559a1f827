"""TensorFlow Serving's REST API where it goes beyond ours: versions, labels, signatures, tensors in JSON.

`docs/serving.md` holds it against TensorFlow Serving's own documentation, point by point.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any
from uuid import UUID

from flask import Response, g, json, request
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest

from backtalk.errors import MalformedTensor, RefusedImage, WrongSignature
from backtalk.loading import ServedVersion
from backtalk.recording import Answered, recall_answers
from backtalk.serving import PredictedBatch
from backtalk.states import Scope
from services.api import tensors
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import body_has_pictures
from services.api.metrics import count_predictions
from services.api.servables import (
    LabelPath,
    ServablePath,
    find_labelled,
    find_latest,
    find_numbered,
    signatures_of,
)
from services.api.shapes import IdempotencyHeader, ModelPath, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "tfserving",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="predictions")],
    operation_id_callback=name_operation,
)


class Method(StrEnum):
    """What signatures of other models may have; ours have `predict` alone."""

    CLASSIFY = "classify"
    REGRESS = "regress"


class MethodPath(ModelPath):
    method: Method


class VersionMethodPath(ServablePath):
    method: Method


class LabelMethodPath(LabelPath):
    method: Method


class TensorAnswer(BaseModel):
    """`predictions` to a request with `instances`, `outputs` to one with `inputs`."""

    predictions: list[Any] | None = Field(None, description="One item for each instance.")
    outputs: Any = Field(None, description="The only output, or an object with each.")


_PIXELS = {"type": "array", "items": {"type": "array"}, "description": "Numbers: height, width, colour."}
_FILE = {"type": "object", "properties": {"b64": {"type": "string", "contentEncoding": "base64"}}}
TENSOR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "signature_name": {
            "type": "string",
            "enum": ["serving_default", "serve_bytes"],
            "description": "`serving_default` takes pixels as nested numbers, `serve_bytes` whole files.",
        },
        "instances": {"type": "array", "items": {"anyOf": [_FILE, _PIXELS]}, "minItems": 1},
        "inputs": {"anyOf": [{"type": "array"}, {"type": "object"}]},
    },
}
_BODY: dict[str, Any] = {"required": True, "content": {"application/json": {"schema": TENSOR_SCHEMA}}}
_ANSWERS: dict[str | int, Any] = {200: TensorAnswer, **problems(400, 404, 408, 409, 413, 415, 429)}


@blueprint.post(
    "/models/<name:model>/versions/<int:number>:predict",
    summary="Ask one version, as TensorFlow Serving is asked",
    request_body=_BODY,
    responses=_ANSWERS,
)
@require(Scope.PREDICT)
@body_has_pictures
def predict_with_version(path: ServablePath, header: IdempotencyHeader) -> Response:
    """The live version or the one before it; recorded like every prediction, ids in the headers.

    With an Idempotency-Key the same body gets the same answer and ids again.
    """
    find = partial(find_numbered, path.model, path.number)
    return answer_tensors(path.model, find, header.idempotency_key)


@blueprint.post(
    "/models/<name:model>/labels/<name:label>:predict",
    summary="Ask the version with a label, as TensorFlow Serving is asked",
    request_body=_BODY,
    responses=_ANSWERS,
)
@require(Scope.PREDICT)
@body_has_pictures
def predict_with_label(path: LabelPath, header: IdempotencyHeader) -> Response:
    """As with a version's number."""
    find = partial(find_labelled, path.model, path.label)
    return answer_tensors(path.model, find, header.idempotency_key)


@blueprint.post(
    "/models/<name:model>:<method:method>",
    summary="Not offered: answers what TensorFlow Serving would",
    responses=problems(400, 404, 408, 413, 429),
)
@require(Scope.PREDICT)
def ask_otherwise(path: MethodPath) -> Response:
    """No signature can be asked by `classify` or `regress`: always 400."""
    find_latest(path.model)
    raise _wrong_signature(path.method)


@blueprint.post(
    "/models/<name:model>/versions/<int:number>:<method:method>",
    summary="Not offered for a version, either",
    responses=problems(400, 404, 408, 413, 429),
)
@require(Scope.PREDICT)
def ask_version_otherwise(path: VersionMethodPath) -> Response:
    find_numbered(path.model, path.number)
    raise _wrong_signature(path.method)


@blueprint.post(
    "/models/<name:model>/labels/<name:label>:<method:method>",
    summary="Not offered for a label, either",
    responses=problems(400, 404, 408, 413, 429),
)
@require(Scope.PREDICT)
def ask_label_otherwise(path: LabelMethodPath) -> Response:
    find_labelled(path.model, path.label)
    raise _wrong_signature(path.method)


def _wrong_signature(method: Method) -> WrongSignature:
    wanted = {Method.CLASSIFY: "classification", Method.REGRESS: "regression"}[method]
    return WrongSignature(
        f"Expected {wanted} signature method_name to be tensorflow/serving/{method}. "
        "Was: tensorflow/serving/predict. Use `:predict`."
    )


class Kept(BaseModel):
    """What an Idempotency-Key's row keeps of an answer. The numbers are in the rows of its predictions, so
    that they are not left over where a picture is deleted.
    """

    predictions: list[UUID]
    version: int
    outputs: list[str]
    in_columns: bool


def answer_tensors(model: str, find: Callable[[], ServedVersion], key: str | None) -> Response:
    """Answer this request in TensorFlow Serving's words, by the version that `find` finds.

    Raises:
        MalformedTensor: the body is none, or a picture in it is not taken in.
        ServableNotFound, UnknownVersionLabel: there is no such version here.
        ImageDeleted: it was answered before, and its picture was deleted since.
    """
    body = read_json()
    if key is None:
        kept, batch = _ask(model, find, body)
        vectors = batch.embeddings.tolist()
        pairs = zip(batch.predictions, vectors, strict=True)
        return _write(kept, batch.generation, [Answered(one.scores, vector) for one, vector in pairs])
    with get_backend().system.db.transaction() as session:

        def record() -> Outcome:
            kept, batch = _ask(model, find, body, session)
            return Outcome(200, kept, batch.generation)

        def write(made: Outcome) -> Response:
            kept = Kept.model_validate(made.body.model_dump())
            return _write(kept, made.generation, recall_answers(session, kept.predictions))

        return answer_once(session, g.caller, key, [request.get_data()], record, write)


def _ask(
    model: str, find: Callable[[], ServedVersion], body: Any, within: Session | None = None
) -> tuple[Kept, PredictedBatch]:
    tensors.check_body(body)
    served = find()
    question = tensors.read_question(body, signatures_of(served))
    try:
        batch = get_backend().live.predict(model, question.pictures, g.caller, pinned=served, within=within)
    except RefusedImage as error:  # TensorFlow knows one status for all that it cannot decode
        raise MalformedTensor(error.message, **error.extra) from None
    count_predictions(batch.model, batch.version, len(batch.predictions))
    kept = Kept(
        predictions=[UUID(one.id) for one in batch.predictions],
        version=batch.version,
        outputs=[tensor.name for tensor in question.signature.outputs],
        in_columns=question.in_columns,
    )
    return kept, batch


def _write(kept: Kept, generation: int | None, answered: list[Answered]) -> Response:
    said = tensors.write_answer(kept.outputs, answered, in_columns=kept.in_columns)
    response = Response(json.dumps(said), mimetype="application/json")
    response.headers["Backtalk-Generation"] = str(generation)
    response.headers["Backtalk-Version"] = str(kept.version)
    response.headers["Backtalk-Predictions"] = ",".join(map(str, kept.predictions))
    return response


def read_json() -> Any:
    """The body, whatever it is called: TensorFlow Serving does not look at the content type.

    Raises:
        BadRequest: it is no JSON.
    """
    try:
        return request.get_json(force=True)
    except RecursionError:
        raise BadRequest("The body is JSON nested too deeply.") from None
