"""What became of a prediction, and the deletion of its picture."""

from datetime import datetime

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field

from backtalk import catalogue, deletion
from backtalk.states import Scope
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "images", __name__, url_prefix="/v1", abp_tags=[Tag(name="images")], operation_id_callback=name_operation
)


class PredictionPath(BaseModel):
    prediction: str = Field(description="The `id` that the prediction was answered with.")


class ImagePath(BaseModel):
    image: str = Field(description="As a prediction, a receipt or a review item names it.")


class PredictionRecord(Answer):
    """A prediction as it was recorded."""

    id: str
    model: str
    version: int = Field(description="The version that made it.")
    label: str
    scores: list[float] = Field(
        description="In the order of the model's labels; empty if a device sent none."
    )
    made_elsewhere: bool = Field(description="By a device, which reported it.")
    client_ref: str | None = Field(description="What the device calls it.")
    image: str = Field(description="The id of its picture. Equal pixels have the same.")
    image_deleted_at: datetime | None = Field(description="When the picture was deleted.")
    created_at: datetime


@blueprint.get(
    "/predictions/<name:prediction>",
    summary="A prediction as it was recorded",
    responses={200: PredictionRecord, **problems(404)},
)
@require()
def get_prediction(path: PredictionPath) -> Response:
    with get_backend().system.db.reading() as session:
        found = catalogue.get_prediction(session, path.prediction)
        row, image = found.prediction, found.image
        return answer(
            PredictionRecord(
                id=str(row.id),
                model=found.model,
                version=row.version,
                label=row.label,
                scores=list(row.scores),
                made_elsewhere=row.made_elsewhere,
                client_ref=row.client_ref,
                image=str(image.id),
                image_deleted_at=image.deleted_at,
                created_at=row.created_at,
            )
        )


@blueprint.delete(
    "/images/<name:image>",
    summary="Delete an image",
    responses={204: {"description": "It is gone"}, **problems(404)},
)
@require(Scope.ADMIN)
def delete_image(path: ImagePath) -> Response:
    """Pixels, hashes and embeddings go, for every model; rows stay as tombstones and samples are retracted.

    Doing it again is 204, too. The same picture may be sent again: it is then another image.
    """
    deletion.delete_image(get_backend().system, image_id=path.image, caller=g.caller)
    return Response(status=204)
