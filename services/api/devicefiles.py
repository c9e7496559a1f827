"""Versions as single files for devices: made by a worker the first time, then sent."""

from typing import Any

from flask import Response, g, request
from flask_openapi import APIBlueprint, Tag
from pydantic import Field

from backtalk import audit, devicefiles
from backtalk.states import DeviceForm, Scope
from services import downloads
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, VersionPath, name_operation, problems
from services.backend import get_backend

RETRY_AFTER_S = 2
BUSY = "Other downloads are going on; try again in a moment."

blueprint = APIBlueprint(
    "device files",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="devices")],
    operation_id_callback=name_operation,
)


class FilePath(VersionPath):
    form: DeviceForm = Field(
        description="`int8` of versions whose backbone is one of 8-bit integers, which have no other; of all "
        "others `float32`, `float16` (half the size) or `dynamic` (8-bit weights, a quarter)."
    )


class Making(Answer):
    """A worker is making the file. Ask again at `Location` after `Retry-After` seconds."""

    model: str
    version: int
    form: DeviceForm


_NUMBER = {"schema": {"type": "integer", "minimum": 1}}
_FILE: dict[str, Any] = {
    "description": "A LiteRT flatbuffer with its labels and metadata inside.",
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "headers": {"ETag": {"description": "SHA-256 of the file, in quotes.", "schema": {"type": "string"}}},
}
_PART = _FILE | {"description": "The part that `Range` asked for."}
_SAME = {"description": "The file is the one that If-None-Match names."}
_OUTSIDE = {"description": "`Range` lies outside the file.", "content": problems(404)[404]["content"]}


@blueprint.get(
    "/models/<name:model>/versions/<int:number>/files/<name:form>",
    summary="A version as one file for devices",
    responses={200: _FILE, 202: Making, 206: _PART, 304: _SAME, 416: _OUTSIDE, **problems(404, 409)},
)
@require(Scope.TRAIN)
def get_device_file(path: FilePath) -> Response:
    """The whole model: RGB pixels in, 0 to 255, of the side that it says; a score for each label out.

    Made when it is first asked for, which takes some seconds, and held against what serves: 409 with
    the reason where it does not agree. `unzip` lists the labels in it.
    """
    system = get_backend().system
    with system.db.transaction() as session:
        found = devicefiles.find_file(
            session, system, model_name=path.model, number=path.number, form=path.form, caller=g.caller
        )
        if isinstance(found, devicefiles.Ready) and downloads.is_wanted(found):
            audit.record(
                session,
                g.caller.actor,
                "version.download",
                f"model:{path.model}",
                version=path.number,
                form=str(path.form),
            )
    if isinstance(found, devicefiles.Ready):
        return downloads.send_device_file(found, BUSY)
    response = answer(Making.model_validate(found), 202)
    response.headers["Location"] = request.path
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
