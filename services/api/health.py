"""Whether this process lives, and whether it can answer."""

from typing import Any, Literal

from flask import Response, current_app
from flask_openapi import APIBlueprint, Tag
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from backtalk import outbox, schema
from backtalk.errors import Unavailable
from backtalk.live import ModelState
from services.api import admission
from services.api.broker import get_broker
from services.api.errors import make_problem
from services.api.intake import answer
from services.api.shapes import Answer, name_operation, problem_response
from services.backend import get_backend

blueprint = APIBlueprint(
    "health", __name__, abp_tags=[Tag(name="operations")], operation_id_callback=name_operation
)

BACKLOG_LATE_S = 30.0  # an event waits a tenth of a second where all is well
NO_KEY: dict[str, Any] = {"security": []}  # said of an operation that anybody may call


class Alive(Answer):
    status: Literal["alive"] = "alive"


class Served(Answer):
    model: str
    version: int | None
    generation: int
    wanted_version: int
    wanted_generation: int
    error: str | None = Field(description="Why the wanted version is not in service.")


class Ready(Answer):
    status: Literal["ready"] = "ready"
    models: list[Served]
    store: Literal["writable", "read-only"] = Field(description="For this process.")
    degraded: list[str] = Field(description="What is not as it should be, though answers are given.")


@blueprint.get("/livez", summary="Alive", responses={200: Alive}, openapi_extensions=NO_KEY)
def check_alive() -> Response:
    """Touches nothing."""
    return answer(Alive())


@blueprint.get(
    "/readyz",
    summary="Ready to answer",
    responses={200: Ready, 503: problem_response(503)},
    openapi_extensions=NO_KEY,
)
def check_ready() -> Response:
    """Ready while every model has some verified version in service, and with no model at all."""
    failed = _check_database()
    try:
        states = get_backend().live.states()
    except Unavailable as error:
        states, failed = [], failed or [error.message]
    failed += [
        f"no version of {state.model} is in service: {state.error or 'it is being loaded'}"
        for state in states
        if state.version is None
    ]
    degraded = [_describe(state) for state in states if state.version is not None and _is_behind(state)]
    degraded += [*_check_redis(), *_check_relay()]
    full = admission.get_admission(current_app).disks.find_full()
    if full is not None:
        degraded.append(f"the disk of {full.name} is nearly full: no more pictures are taken in")
    if failed:
        return make_problem(503, "not-ready", "; ".join(failed), {"failed": failed, "degraded": degraded})
    store: Literal["writable", "read-only"] = (
        "writable" if get_backend().system.versions.may_write() else "read-only"
    )
    served = [Served.model_validate(state) for state in states]
    return answer(Ready(models=served, store=store, degraded=degraded))


def _check_database() -> list[str]:
    """What keeps this code from working with the database; a schema that only has more does not."""
    try:
        with get_backend().system.db.reading() as session:
            misfit = schema.find_misfit(session)
    except SQLAlchemyError as error:
        return [f"the database does not answer as it should: {type(error).__name__}"]
    return [misfit] if misfit else []


def _check_redis() -> list[str]:
    seen = get_broker(current_app).look()
    if not seen.there:
        return ["Redis is away: feedback is counted in each process by itself, and training waits"]
    if seen.is_nearly_full:
        return [f"Redis is nearly full, with {seen.used} of {seen.limit} bytes: soon training waits"]
    return []


def _check_relay() -> list[str]:
    try:
        with get_backend().system.db.reading() as session:
            waiting, age_s = outbox.measure_backlog(session)
    except SQLAlchemyError:  # said above
        return []
    if age_s < BACKLOG_LATE_S:
        return []
    why = "it does not run, or cannot write to Redis"
    return [f"{waiting} events wait for the relay, the oldest for {age_s:.0f} s: {why}"]


def _is_behind(state: ModelState) -> bool:
    return state.error is not None or state.generation != state.wanted_generation


def _describe(state: ModelState) -> str:
    why = state.error or "it is being loaded"
    return (
        f"{state.model} answers with version {state.version} of generation {state.generation}, "
        f"not version {state.wanted_version} of generation {state.wanted_generation}: {why}"
    )
