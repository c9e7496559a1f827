"""Predictions: raw image bytes, a form, or the JSON that TensorFlow Serving's clients send."""

from typing import Any

from flask import Response, g, request
from flask_openapi import APIBlueprint, Tag
from pydantic import Field, RootModel
from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest

from backtalk.errors import InvalidInput
from backtalk.incoming import MAX_BATCH
from backtalk.serving import PredictedBatch
from backtalk.states import Scope
from services.api import tensors
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import answer, body_has_pictures
from services.api.metrics import count_predictions
from services.api.servables import find_latest
from services.api.shapes import Answer, IdempotencyHeader, ModelPath, name_operation, problems
from services.api.tfserving import TENSOR_SCHEMA, TensorAnswer, answer_tensors, read_json
from services.backend import get_backend


class Prediction(Answer):
    """What a version said about one image, recorded before it was sent."""

    id: str = Field(description="What corrections and confirmations name.")
    label: str
    score: float = Field(description="Of the label; between 0 and 1.")
    scores: list[float] = Field(description="In the order of the model's labels; they add up to 1.")


class Predictions(Answer):
    model: str
    version: int = Field(description="The version that answered; the record names the same.")
    predictions: list[Prediction] = Field(description="In the order of the images.")


class PredictionsOrTensors(RootModel[Predictions | TensorAnswer]):
    """Tensors where the request has a `signature_name`, `inputs` or numbers: anything but files alone."""


#: The smallest picture there is: a PNG of one grey pixel.
_GREY_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
_BYTES = {"type": "string", "format": "binary", "minLength": 1}
_BINARY = {"schema": _BYTES}
_INSTANCE = {
    "type": "object",
    "properties": {
        "b64": {
            "type": "string",
            "contentEncoding": "base64",
            "description": "The image's bytes.",
            "examples": [_GREY_PIXEL],
        }
    },
    "required": ["b64"],
}
_REQUEST_BODY: dict[str, Any] = {
    "description": "The image itself, a form with it, or JSON with several.",
    "required": True,
    "content": {
        "image/jpeg": _BINARY,
        "image/png": _BINARY,
        "image/webp": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"image": _BYTES},
                "required": ["image"],
            }
        },
        "application/json": {
            "schema": {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {
                            "instances": {
                                "type": "array",
                                "items": _INSTANCE,
                                "minItems": 1,
                                "maxItems": MAX_BATCH,
                            },
                        },
                        "required": ["instances"],
                    },
                    TENSOR_SCHEMA,
                ]
            }
        },
    },
}

blueprint = APIBlueprint(
    "predict",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="predictions")],
    operation_id_callback=name_operation,
)


@blueprint.post(
    "/models/<name:model>:predict",
    summary="Classify images",
    description="Each answer is recorded before it is sent; correct or confirm it by its id. With an "
    "Idempotency-Key the same pictures get the same ids again; in the shape of TensorFlow Serving the same "
    "body does, in the header `Backtalk-Predictions`.",
    request_body=_REQUEST_BODY,
    responses={200: PredictionsOrTensors, **problems(400, 404, 408, 409, 413, 415, 429)},
)
@require(Scope.PREDICT)
@body_has_pictures
def predict(path: ModelPath, header: IdempotencyHeader) -> Response:
    if _is_json() and not tensors.has_files_alone(read_json()):
        return answer_tensors(path.model, lambda: find_latest(path.model), header.idempotency_key)
    pictures = read_pictures()
    if header.idempotency_key is None:  # no transaction but the one statement that records
        batch = _predict(path.model, pictures)
        return answer(Predictions.model_validate(batch), generation=batch.generation)
    with get_backend().system.db.transaction() as session:

        def record() -> Outcome:
            batch = _predict(path.model, pictures, session)
            return Outcome(200, Predictions.model_validate(batch), batch.generation)

        return answer_once(session, g.caller, header.idempotency_key, pictures, record)


def _predict(model: str, pictures: list[bytes], within: Session | None = None) -> PredictedBatch:
    batch = get_backend().live.predict(model, pictures, g.caller, within=within)
    count_predictions(batch.model, batch.version, len(batch.predictions))
    return batch


def read_pictures() -> list[bytes]:
    """The pictures of this request, as they came.

    Raises:
        BadRequest: no picture, or a body that says form and is none.
        InvalidInput: too many, or not base64.
    """
    if _is_json():
        return _read_instances(read_json()[tensors.ROWS])
    if request.mimetype == "multipart/form-data":
        upload = request.files.get("image")
        if upload is None:
            raise BadRequest("The form has no file named `image`.")
        data = upload.stream.read()
    else:  # whatever it is called: its first bytes say what it is
        data = request.get_data(cache=False)
    if not data:
        raise BadRequest("The body is empty: send the image's bytes.")
    return [data]


def _is_json() -> bool:
    """By name or by its first bytes: curl and `requests.post(data=…)` call it a form, or nothing at all."""
    if request.mimetype == "multipart/form-data":
        return False
    return request.is_json or request.get_data()[:64].lstrip().startswith((b"{", b"["))


def _read_instances(rows: list[Any]) -> list[bytes]:
    if len(rows) > MAX_BATCH:
        raise InvalidInput(f'Send {{"instances": [{{"b64": "…"}}]}} with 1 to {MAX_BATCH} images.')
    return [_read_instance(number, row) for number, row in enumerate(rows)]


def _read_instance(number: int, row: Any) -> bytes:
    try:
        return tensors.decode_base64(tensors.unwrap(row)["b64"])
    except ValueError:
        raise InvalidInput(f"instances[{number}].b64 is not base64.") from None
