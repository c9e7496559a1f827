"""The run row as a job: claimed by compare-and-set, kept by heartbeats, ended once.

Only the database's clock decides. Every write after the claim names the fence that the claim drew; no row
changed means that somebody else owns the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from backtalk.errors import LeaseLost, RunNotFound
from backtalk.events import RunEnded, RunRequested
from backtalk.outbox import emit
from backtalk.states import RunState
from backtalk.tables import Run

#: Claims that a run may have beyond its attempts before even a polite stop is charged.
FREE_CLAIMS = 20


@dataclass(frozen=True)
class Claim:
    """One owner's hold on a run."""

    run_id: UUID
    model_id: int
    fence: int


def claim_run(
    session: Session, run_id: str, state: RunState, *, from_state: RunState, lease_s: float, max_attempts: int
) -> Claim | None:
    """Take a run that waits in `from_state`, or whose owner in `state` is dead; None if nothing is to do.

    Starting to train costs an attempt, and so does taking over from a dead owner.
    """
    dead = and_(Run.state == state, Run.lease_until < func.now())
    free = and_(Run.state == from_state, or_(Run.lease_until.is_(None), Run.lease_until < func.now()))
    costs = 1 if state is RunState.TRAINING else func.coalesce(text("(lease_until IS NOT NULL)::int"), 0)
    row = session.execute(
        update(Run)
        .where(Run.id == UUID(run_id), or_(dead, free), Run.attempt + costs <= max_attempts)
        .values(
            state=state,
            attempt=Run.attempt + costs,
            fence=Run.fence + 1,
            lease_until=_in_seconds(lease_s),
            heartbeat_at=func.now(),
            progress_at=func.now(),
            started_at=func.coalesce(Run.started_at, func.now()),
        )
        .returning(Run.model_id, Run.fence)
    ).one_or_none()
    return Claim(UUID(run_id), row.model_id, row.fence) if row else None


OWNED = (RunState.TRAINING, RunState.JUDGING, RunState.PROMOTING)


def update_claimed(
    session: Session, claim: Claim, *, while_in: Sequence[RunState] = OWNED, **values: Any
) -> None:
    """Write to the run as its owner, in the state that this owner claimed it for.

    Raises:
        LeaseLost: another owner claimed it, or it was ended.
    """
    changed = session.execute(
        update(Run)
        .where(
            Run.id == claim.run_id,
            Run.fence == claim.fence,
            Run.state.in_(while_in),
        )
        .values(**values)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"Run {claim.run_id} is no longer ours (fence {claim.fence}).")


def beat(
    session: Session,
    claim: Claim,
    progress: dict[str, Any],
    *,
    lease_s: float,
    while_in: Sequence[RunState] = OWNED,
) -> None:
    """Say that the owner is alive; new progress also says that it is not stuck. Raises LeaseLost."""
    values: dict[str, Any] = {"lease_until": _in_seconds(lease_s), "heartbeat_at": func.now()}
    if progress:
        values |= {"progress": merge_progress(progress), "progress_at": func.now()}
    update_claimed(session, claim, while_in=while_in, **values)


def merge_progress(progress: dict[str, Any]) -> ColumnElement[Any]:
    """`runs.progress` with these members set, and `seconds` merged one level deeper."""
    merged = Run.progress.op("||")(literal(progress, JSONB))
    if "seconds" not in progress:
        return merged
    seconds = func.coalesce(Run.progress["seconds"], text("'{}'::jsonb")).op("||")(
        literal(progress["seconds"], JSONB)
    )
    return merged.op("||")(func.jsonb_build_object("seconds", seconds))


def end_run(session: Session, claim: Claim, state: RunState, reason: str, **values: Any) -> None:
    """End the run for good, and say so. Takes what `update_claimed` takes. Raises LeaseLost."""
    values |= {"state": state, "reason": reason, "ended_at": func.now(), "lease_until": None}
    update_claimed(session, claim, **values)
    emit(session, RunEnded(model_id=claim.model_id, run_id=str(claim.run_id)))


def give_back(session: Session, claim: Claim, reason: str, *, charged: bool, max_attempts: int) -> None:
    """Let go of a run that is training: it waits for another owner, or is quarantined.

    Not charged, its attempt is handed back and the doorbell rung at once. Charged, it waits for the sweeper
    to ring, which leaves a machine out of memory some time; with its attempts used up it ends. A run that was
    claimed too often is always charged: what looks like a polite stop may be the run's own doing, as where a
    daemon sends SIGTERM to whoever takes too much memory.

    Raises:
        LeaseLost
    """
    update_claimed(session, claim, while_in=(RunState.TRAINING,), lease_until=None, heartbeat_at=func.now())
    run = session.get_one(Run, claim.run_id, populate_existing=True)
    if not charged and run.fence - run.attempt < FREE_CLAIMS:
        run.attempt -= 1
        requeue(session, run)
    elif run.attempt < max_attempts:
        run.state = RunState.QUEUED
    else:
        quarantine(session, run, reason)


def requeue(session: Session, run: Run) -> None:
    """Let it wait for an owner, and ring."""
    run.state, run.lease_until = RunState.QUEUED, None
    note_ring(run)
    emit(session, RunRequested(model_id=run.model_id, run_id=str(run.id), kind=run.kind))


def quarantine(session: Session, run: Run, cause: str) -> None:
    """End a run that has used up its attempts; no trigger repeats it for the same reason."""
    cause = cause.rstrip(".")
    run.reason = f"Quarantined after {run.attempt} attempts: {cause[0].lower()}{cause[1:]}."
    run.progress = run.progress | {"quarantined": True}
    run.state, run.lease_until, run.ended_at = RunState.FAILED, None, func.now()
    emit(session, RunEnded(model_id=run.model_id, run_id=str(run.id)))


def note_ring(run: Run) -> None:
    """Its doorbell is rung now: `list_unrung` counts from here."""
    run.heartbeat_at = func.now()


def get_run(session: Session, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    run = session.get(Run, run_id)
    if run is None:
        raise RunNotFound(f"There is no run {run_id}.")
    return run


def _in_seconds(seconds: float) -> ColumnElement[datetime]:
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def list_dead(session: Session, *, stuck_s: float) -> list[Run]:
    """Runs whose owner stopped beating, or beats but gets nowhere; locked."""
    stuck = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, stuck_s)
    statement = (
        select(Run)
        .where(
            Run.state == RunState.TRAINING,
            or_(Run.lease_until < func.now(), Run.progress_at < stuck),
        )
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(statement))


def list_unrung(session: Session, *, after_s: float) -> list[Run]:
    """Runs that wait for a worker and whose doorbell was rung `after_s` ago or longer; locked."""
    long_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, after_s)
    statement = (
        select(Run)
        .where(
            Run.state.in_((RunState.QUEUED, RunState.JUDGING, RunState.PROMOTING)),
            or_(Run.lease_until.is_(None), Run.lease_until < func.now()),
            func.coalesce(Run.heartbeat_at, Run.created_at) < long_ago,
        )
        .with_for_update(skip_locked=True)
    )
    return list(session.scalars(statement))
