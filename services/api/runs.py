"""Runs: asking for one, how it goes, and how it was judged."""

from datetime import datetime
from typing import Any

from flask import Response, g
from flask_openapi import APIBlueprint, Tag
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import catalogue, triggers
from backtalk.states import RunKind, RunState, Scope, Verdict
from backtalk.tables import Run, Snapshot
from services.api.auth import require
from services.api.idempotency import Outcome, answer_once
from services.api.intake import answer
from services.api.shapes import (
    Answer,
    Body,
    IdempotencyHeader,
    ListOf,
    ModelPath,
    PageQuery,
    name_operation,
    problems,
)
from services.backend import get_backend

blueprint = APIBlueprint(
    "runs", __name__, url_prefix="/v1", abp_tags=[Tag(name="runs")], operation_id_callback=name_operation
)


class RunPath(BaseModel):
    run: str


class RunBody(Body):
    kind: RunKind
    recipe: str | None = Field(None, max_length=63, description="Of a full run; `default` if left out.")


class Asked(Answer):
    id: str


class RunShape(Answer):
    id: str
    model: str
    kind: RunKind
    state: RunState
    reason: str | None = Field(description="Why it ended as it did.")
    verdict: Verdict | None
    trigger_key: str
    retry: int
    requested_by: str
    attempt: int
    recipe: dict[str, Any] | None = Field(description="Of a full run: its name; once begun, all of it.")
    base_version: int | None = Field(description="The champion when it began.")
    version: int | None = Field(description="The number of the version that it made.")
    snapshot_digest: str | None
    progress: dict[str, Any] = Field(
        description="Its part and how much of that is done; of a full run also `history`: epoch, log loss "
        "and accuracy of the validation images, of the newest 100 epochs at most."
    )
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class CheckShape(Answer):
    check: str
    value: float | None
    bound: float | None
    n: int
    fixed: int = Field(description="Images that the champion reads wrong and the candidate right.")
    broken: int = Field(description="The other way round.")
    passed: bool | None = Field(description="Null: shown, not judged, or too few images.")
    detail: dict[str, Any]


class SnapshotShape(Answer):
    digest: str
    counts: dict[str, Any] = Field(description="Samples by split, origin and label.")
    samples: int
    stay_right: int = Field(description="Recorded images without a label, learned from softly.")


class RunDetail(RunShape):
    snapshot: SnapshotShape | None
    checks: list[CheckShape] = Field(description="Of the last judgement.")


@blueprint.post(
    "/models/<name:model>/runs",
    summary="Ask for a run",
    responses={202: Asked, **problems(400, 404, 409, 413, 415, 422)},
)
@require(Scope.TRAIN)
def create_run(path: ModelPath, header: IdempotencyHeader, body: RunBody) -> Response:
    """Whatever has been approved so far; 409 while one of that kind is active."""
    with get_backend().system.db.transaction() as session:

        def request() -> Outcome:
            model = catalogue.get_model(session, path.model)
            recipe = triggers.check_recipe(body.kind, body.recipe, get_backend().system.settings.recipes)
            made = triggers.request_run(session, model=model, kind=body.kind, caller=g.caller, recipe=recipe)
            return Outcome(202, Asked(id=str(made.id)), model.generation)

        return answer_once(session, g.caller, header.idempotency_key, body, request)


@blueprint.get(
    "/models/<name:model>/runs",
    summary="A model's runs",
    responses={200: ListOf[RunShape], **problems(400, 404)},
)
@require()
def list_runs(path: ModelPath, query: PageQuery) -> Response:
    with get_backend().system.db.reading() as session:
        model = catalogue.get_model(session, path.model)
        page = catalogue.list_runs(session, model, limit=query.limit, cursor=query.cursor)
    items = [RunShape(**_shape(run, model.name)) for run in page.items]
    return answer(ListOf[RunShape](items=items, next=page.next), generation=model.generation)


@blueprint.get(
    "/runs/<name:run>", summary="A run and how it was judged", responses={200: RunDetail, **problems(404)}
)
@require()
def get_run(path: RunPath) -> Response:
    with get_backend().system.db.reading() as session:
        record = catalogue.get_run(session, path.run)
        snapshot = _find_snapshot(session, record.run)
    return answer(
        RunDetail(
            **_shape(record.run, record.model),
            snapshot=snapshot,
            checks=[CheckShape.model_validate(check) for check in record.checks],
        )
    )


def _shape(run: Run, model: str) -> dict[str, Any]:
    fields = {name: getattr(run, name) for name in RunShape.model_fields if name not in {"id", "model"}}
    return {"id": str(run.id), "model": model, **fields}


def _find_snapshot(session: Session, run: Run) -> SnapshotShape | None:
    row = session.scalar(
        select(Snapshot).where(Snapshot.model_id == run.model_id, Snapshot.digest == run.snapshot_digest)
    )
    if row is None:
        return None
    return SnapshotShape(
        digest=row.digest, counts=row.counts, samples=len(row.sample_ids), stay_right=len(row.stay_right_ids)
    )
