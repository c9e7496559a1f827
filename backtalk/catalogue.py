"""What there is to see: models, versions, runs with their checks, trigger checks, the ledger. Reads only.

Lists are newest first and walk by key, so that a page neither repeats nor skips rows while others arrive.
"""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from backtalk.considerations import was_withdrawn
from backtalk.db import parse_id as parse_id  # noqa: PLC0414 - part of what this module offers
from backtalk.decisions import stands
from backtalk.errors import InvalidCursor, ModelNotFound, PredictionNotFound, RunNotFound, VersionNotFound
from backtalk.queues import counts_in
from backtalk.states import ACTIVE_RUN_STATES, VERDICT_RUN_STATES, RunKind
from backtalk.tables import (
    Correction,
    Decision,
    GateCheck,
    Image,
    LedgerEntry,
    Model,
    Prediction,
    ReviewItem,
    Run,
    Sample,
    TriggerCheck,
    Version,
)

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """One stretch of a list; `next` is the cursor of the stretch after it, or None at the end."""

    items: list[Row]
    next: str | None


@dataclass(frozen=True)
class RunRecord:
    """A run with the name of its model and the checks of its last judgement."""

    run: Run
    model: str
    checks: list[GateCheck]


@dataclass(frozen=True)
class Counts:
    """How much of everything one model has now."""

    predictions_24h: int
    open_items: int
    corrections: dict[str, int]  # by state
    decided: int  # decisions with a right label, ever
    decided_new: int  # of them, those after the snapshot cut of the last head run that reached a verdict
    samples: dict[str, int]  # live ones, by split
    active_runs: int


# --- one of them -------------------------------------------------------------------------------
def find_model(session: Session, name: str) -> Model | None:
    if not name.isprintable():  # Postgres takes no NUL
        return None
    return session.scalar(select(Model).where(Model.name == name))


def get_model(session: Session, name: str) -> Model:
    """The model of that name.

    Raises:
        ModelNotFound: there is none.
    """
    model = find_model(session, name)
    if model is None:
        raise ModelNotFound(f"There is no model called {name!r}.")
    return model


def find_version(session: Session, model: Model, number: int) -> Version | None:
    if not 0 < number < 2**63:
        return None
    return session.scalar(select(Version).where(Version.model_id == model.id, Version.number == number))


def get_version(session: Session, model: Model, number: int) -> Version:
    """The version of `model` with that number.

    Raises:
        VersionNotFound: there is none.
    """
    version = find_version(session, model, number)
    if version is None:
        raise VersionNotFound(f"Model {model.name!r} has no version {number}.")
    return version


def get_run(session: Session, run_id: str) -> RunRecord:
    """The run with that id, with the checks of its last judgement in the order they were made.

    Raises:
        RunNotFound: there is none.
    """
    key = parse_id(run_id)
    run = session.get(Run, key) if key else None
    if run is None:
        raise RunNotFound(f"There is no run {run_id!r}.")
    last = select(func.max(GateCheck.round)).where(GateCheck.run_id == run.id).scalar_subquery()
    checks = (
        select(GateCheck).where(GateCheck.run_id == run.id, GateCheck.round == last).order_by(GateCheck.id)
    )
    return RunRecord(run, session.get_one(Model, run.model_id).name, list(session.scalars(checks)))


# --- lists -------------------------------------------------------------------------------------
def list_models(session: Session, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Page[Model]:
    return _page(session, select(Model), Model.id, limit, cursor)


def list_versions(
    session: Session, model: Model, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Version]:
    rows = select(Version).where(Version.model_id == model.id)
    return _page(session, rows, Version.number, limit, cursor)


def list_runs(
    session: Session, model: Model, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[Run]:
    return _page(session, select(Run).where(Run.model_id == model.id), Run.id, limit, cursor, UUID)


def list_trigger_checks(
    session: Session, model: Model, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[TriggerCheck]:
    rows = select(TriggerCheck).where(TriggerCheck.model_id == model.id)
    return _page(session, rows, TriggerCheck.id, limit, cursor)


def list_ledger(
    session: Session,
    model: Model,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    action: str | None = None,
) -> Page[LedgerEntry]:
    rows = select(LedgerEntry).where(LedgerEntry.model_id == model.id)
    if action is not None:
        rows = rows.where(LedgerEntry.action == action)
    return _page(session, rows, LedgerEntry.seq, limit, cursor)


# --- counts ------------------------------------------------------------------------------------
def count_all(session: Session, model: Model) -> Counts:
    """What one model has now: seven cheap queries over indexes."""
    # Without a key they were made for reviewers, not for an app.
    recent = (Prediction.created_at > func.now() - timedelta(days=1)) & Prediction.key_id.is_not(None)
    decided = (Decision.model_id == model.id, Decision.counts, stands())
    return Counts(
        predictions_24h=_count(session, Prediction.model_id == model.id, recent),
        open_items=_count(session, *_open_items(model)),
        corrections=_count_by(session, Correction.state, Correction.model_id == model.id),
        decided=_count(session, *decided),
        decided_new=count_decided_new(session, model),
        samples=count_samples(session, model),
        active_runs=_count(session, Run.model_id == model.id, Run.state.in_(ACTIVE_RUN_STATES)),
    )


def _open_items(model: Model) -> tuple[ColumnElement[bool], ...]:
    """Those that are due: what is offered only when asked for waits for nobody."""
    return (ReviewItem.model_id == model.id, ReviewItem.closed_at.is_(None), counts_in(None))


def count_decided_new(session: Session, model: Model) -> int:
    """Decided statements with a right label after the snapshot cut of the last head run with a verdict."""
    decided = (Decision.model_id == model.id, Decision.counts, stands())
    return _count(session, *decided, Decision.id > _last_cut(model), ~was_withdrawn())


def count_samples(session: Session, model: Model) -> dict[str, int]:
    """Live ones, by split."""
    return _count_by(session, Sample.split, Sample.model_id == model.id, Sample.retracted_at.is_(None))


def _last_cut(model: Model) -> ColumnElement[int]:
    ended = select(func.max(Run.decision_cut)).where(
        Run.model_id == model.id, Run.kind == RunKind.HEAD, Run.state.in_(VERDICT_RUN_STATES)
    )
    return func.coalesce(ended.scalar_subquery(), 0)


def _count(session: Session, *where: Any) -> int:
    return session.scalar(select(func.count()).where(*where)) or 0


def _count_by(session: Session, column: InstrumentedAttribute[str], *where: Any) -> dict[str, int]:
    rows = session.execute(select(column, func.count()).where(*where).group_by(column))
    return {row[0]: row[1] for row in rows}


# --- predictions -------------------------------------------------------------------------------
@dataclass(frozen=True)
class PredictionRecord:
    """A prediction with what it is about."""

    prediction: Prediction
    model: str
    image: Image


def get_prediction(session: Session, prediction_id: str) -> PredictionRecord:
    """Raises PredictionNotFound."""
    key = parse_id(prediction_id)
    row = session.get(Prediction, key) if key else None
    if row is None:
        raise PredictionNotFound(f"There is no prediction {prediction_id!r}.")
    model = session.get_one(Model, row.model_id)
    return PredictionRecord(row, model.name, session.get_one(Image, row.image_id))


@dataclass(frozen=True)
class DecidedPrediction:
    """A prediction of which somebody decided what would have been right."""

    decision: Decision
    prediction: Prediction
    kind: str
    reporter: str | None  # of the correction; none for an audit


def list_decided(
    session: Session, model: Model, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[DecidedPrediction]:
    """Decisions that name a right label and stand, with what they are about."""
    rows = select(Decision).where(Decision.model_id == model.id, Decision.counts, stands(), ~was_withdrawn())
    page = _page(session, rows, Decision.id, limit, cursor)
    found = session.execute(
        select(Decision, Prediction, ReviewItem.kind, Correction.reporter)
        .join(Prediction, Prediction.id == Decision.prediction_id)
        .join(ReviewItem, ReviewItem.id == Decision.item_id)
        .outerjoin(Correction, Correction.id == ReviewItem.correction_id)
        .where(Decision.id.in_([row.id for row in page.items]))
        .order_by(Decision.id.desc())
    )
    return Page([DecidedPrediction(*row) for row in found], page.next)


# --- cursors -----------------------------------------------------------------------------------
def _page(
    session: Session,
    rows: Select[Row],
    key: InstrumentedAttribute[Any],
    limit: int,
    cursor: str | None,
    kind: Callable[[str], Any] = int,
) -> Page[Row]:
    """Newest first, from behind `cursor`; one row more is read to know whether there is a next page."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidCursor(f"`limit` is 1 to {MAX_LIMIT}.")
    if cursor is not None:
        rows = rows.where(key < _read_cursor(cursor, key.key, kind))
    found = list(session.scalars(rows.order_by(key.desc()).limit(limit + 1)))
    more = len(found) > limit
    return Page(found[:limit], _write_cursor(key.key, getattr(found[limit - 1], key.key)) if more else None)


def _write_cursor(column: str, value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps([column, str(value)]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str, column: str, kind: Callable[[str], Any]) -> Any:
    try:
        named, value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if named != column:
            raise ValueError(named)
        read = kind(value)
        if isinstance(read, int) and abs(read) >= 2**63:
            raise ValueError(value)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise InvalidCursor(
            "That cursor is not one of this list: send the `next` of the page before."
        ) from None
    return read
