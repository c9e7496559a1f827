"""What devices predicted by themselves: recorded here, so that it can be corrected like any other."""

from typing import Annotated, Any

from flask import Response, g, request
from flask_openapi import APIBlueprint, Tag
from pydantic import Field, Json, ValidationError
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from backtalk.serving import Elsewhere
from backtalk.states import Scope
from services.api.auth import require
from services.api.errors import answer_validation
from services.api.intake import answer, body_has_pictures
from services.api.shapes import Answer, Body, Line, ModelPath, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "devices",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="predictions")],
    operation_id_callback=name_operation,
)


class DeviceForm(Body):
    """The fields beside the file `image`."""

    label: Line = Field(description="What the device predicted, one of the model's labels.")
    version: int | None = Field(
        None, ge=1, description="The version on the device; if missing, the live one."
    )
    scores: Json[Annotated[list[float], Field(max_length=10_000)]] | None = Field(
        None, description="JSON: numbers in the order of the model's labels that add up to 1, within 0.02."
    )
    client_ref: Line | None = Field(
        None, description="What the device calls it: sent again with this key, it is the same prediction."
    )


class DevicePrediction(Answer):
    id: str = Field(description="What corrections and confirmations name.")
    version: int
    label: str


_FIELDS: dict[str, Any] = {
    "image": {"type": "string", "format": "binary"},
    "label": {"type": "string"},
    "version": {"type": "integer", "minimum": 1, "description": "If missing, the live one."},
    "scores": {
        "type": "string",
        "contentMediaType": "application/json",
        "description": "An array of numbers in the order of the model's labels; they add up to 1.",
    },
    "client_ref": {"type": "string", "maxLength": 200, "description": "Unique for each key."},
}
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": _FIELDS, "required": ["image", "label"]}
        }
    },
}


@blueprint.post(
    "/models/<name:model>/predictions",
    summary="Record what a device predicted",
    request_body=_BODY,
    responses={
        200: DevicePrediction,
        201: DevicePrediction,
        **problems(400, 404, 408, 409, 413, 415, 429),
    },
)
@require(Scope.PREDICT)
@body_has_pictures
def record_prediction(path: ModelPath) -> Response:
    """200 with the same id if this key sent the same under its `client_ref` before; 409 if it was another.

    From then on it is a prediction like any other: it can be corrected, confirmed, drawn for an audit.
    """
    picture = _read_picture()
    try:
        form = DeviceForm.model_validate(request.form.to_dict())
    except ValidationError as error:
        return answer_validation(error)
    said = Elsewhere(form.label, form.version, form.scores, form.client_ref)
    made = get_backend().live.record(path.model, picture, said, g.caller)
    return answer(
        DevicePrediction.model_validate(made), 201 if made.created else 200, generation=made.generation
    )


def _read_picture() -> bytes:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send a form (multipart/form-data) with `image` and `label`.")
    upload = request.files.get("image")
    data = upload.stream.read() if upload else b""
    if not data:
        raise BadRequest("The form has no file named `image`, or an empty one.")
    return data
