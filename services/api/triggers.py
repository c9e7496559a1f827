"""The trigger checks: each time a run was considered, what was counted, and why one came of it or not."""

from datetime import datetime
from typing import Any

from flask import Response
from flask_openapi import APIBlueprint, Tag
from pydantic import Field

from backtalk import catalogue
from backtalk.tables import TriggerCheck
from services.api.auth import require
from services.api.intake import answer
from services.api.shapes import Answer, ListOf, ModelPath, PageQuery, name_operation, problems
from services.backend import get_backend

blueprint = APIBlueprint(
    "triggers",
    __name__,
    url_prefix="/v1",
    abp_tags=[Tag(name="triggers")],
    operation_id_callback=name_operation,
)


class TriggerShape(Answer):
    id: str
    at: datetime
    kind: str
    fired: bool
    run: str | None = Field(description="The run that came of it.")
    reason: str
    counts: dict[str, Any]
    policy: dict[str, Any] = Field(description="As it was then.")


@blueprint.get(
    "/models/<name:model>/triggers",
    summary="When runs were considered, and why they came or not",
    responses={200: ListOf[TriggerShape], **problems(400, 404)},
)
@require()
def list_triggers(path: ModelPath, query: PageQuery) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        page = catalogue.list_trigger_checks(session, model, limit=query.limit, cursor=query.cursor)
    items = [_shape(row) for row in page.items]
    return answer(ListOf[TriggerShape](items=items, next=page.next), generation=model.generation)


def _shape(row: TriggerCheck) -> TriggerShape:
    return TriggerShape(
        id=str(row.id),
        at=row.at,
        kind=row.kind,
        fired=row.fired,
        run=str(row.run_id) if row.run_id else None,
        reason=row.reason,
        counts=row.counts,
        policy=row.policy,
    )
