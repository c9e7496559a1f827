"""Runs a queued run: snapshot, fit, verify, and hand the candidate over to the judge."""

import logging
from time import monotonic
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk import runs
from backtalk.errors import ArtefactInvalid, LeaseLost, NotYet, SnapshotUnusable, TrainerFailed
from backtalk.events import CandidatePassed, CandidateTrained, Event, RunEnded, RunRequested
from backtalk.failpoints import around_commit, failpoint
from backtalk.fitting import FitRequest, Fitted, fit_head
from backtalk.lessons import read_lessons
from backtalk.lineage import find_tainted
from backtalk.outbox import emit
from backtalk.runs import Claim
from backtalk.snapshots import take_snapshot
from backtalk.states import RunKind, RunState, VersionState
from backtalk.system import System
from backtalk.tables import GateCheck, Model, Run, Version
from backtalk.trainers import Trainers

log = logging.getLogger(__name__)

RING_AGAIN_S = 30.0
BEAT_EVERY_S = 1.0


def train_run(system: System, trainers: Trainers, run_id: str) -> None:
    """Train one run; returns at once where there is nothing to do (the message was late or doubled)."""
    with system.db.transaction() as session:
        claim = runs.claim_run(
            session,
            run_id,
            RunState.TRAINING,
            from_state=RunState.QUEUED,
            lease_s=system.settings.lease_s,
            max_attempts=system.settings.max_attempts,
        )
    if claim is None:
        return
    log.info("run %s: attempt claimed, fence %d", run_id, claim.fence)
    try:
        failpoint("training.after_claim")
        _train(system, trainers, claim)
    except LeaseLost as error:
        log.warning("%s", error.message)
        _discard(system, claim)
    except (TrainerFailed, SnapshotUnusable, ArtefactInvalid, NotYet) as error:
        _fail(system, claim, error.message)
    except Exception as error:
        _fail(system, claim, f"Unexpected {type(error).__name__}: {error}")
        raise


def _train(system: System, trainers: Trainers, claim: Claim) -> None:
    started = monotonic()
    with system.db.transaction() as session:
        request, digest = _prepare(session, system, claim)
        around_commit(session, "training.snapshot")
    data = read_lessons(system, claim.model_id, request, digest)
    heart = _Heart(system, claim)
    heart({"part": "read", "seconds": {"read": round(monotonic() - started, 3)}})
    fitted = fit_head(system.versions, trainers, request, data, heart)
    with system.db.transaction() as session:
        _hand_over(session, claim, request, fitted)
        around_commit(session, "training.hand_over")
    log.info("run %s: candidate %d trained", claim.run_id, request.version)


class _Heart:
    """Progress reports to heartbeats: at most one a second, unless the part changes."""

    def __init__(self, system: System, claim: Claim) -> None:
        self._system = system
        self._claim = claim
        self._part: Any = None
        self._beat_at = 0.0

    def __call__(self, progress: dict[str, Any]) -> None:
        part = progress.get("part", self._part)
        if part == self._part and monotonic() - self._beat_at < BEAT_EVERY_S:
            return
        self._part, self._beat_at = part, monotonic()
        with self._system.db.transaction() as session:
            runs.beat(session, self._claim, progress, lease_s=self._system.settings.lease_s)


def _prepare(session: Session, system: System, claim: Claim) -> tuple[FitRequest, str]:
    """Freeze what is learned from, and draw the version's number."""
    run = runs.get_run(session, claim.run_id)
    if run.kind != RunKind.HEAD:
        raise NotYet("Full runs are not built yet. Use kind `head`.")
    model = session.get_one(Model, claim.model_id)
    champion = session.scalars(
        select(Version).where(Version.model_id == model.id, Version.state == VersionState.LIVE)
    ).one()
    frozen = take_snapshot(session, model, champion.backbone_digest)
    # What the champion learned and was withdrawn since must not live on in a mixture with it.
    tainted = champion.number in find_tainted(session, model.id)
    number = run.version or _draw_number(session, model.id)
    runs.update_claimed(
        session,
        claim,
        snapshot_digest=frozen.snapshot.digest,
        decision_cut=frozen.decision_cut,
        base_version=champion.number,
        version=number,
    )
    request = FitRequest(
        model=model.name,
        run_id=run.id,
        version=number,
        parent_version=None if tainted else champion.number,
        labels=list(model.labels),
        backbone_digest=champion.backbone_digest,
        champion_head=None if tainted else system.versions.resolve(champion.path) / "head.npz",
        seed=run.seed,
        snapshot_digest=frozen.snapshot.digest,
        artefact=system.versions.candidate_path(model.name, run.id, claim.fence),
    )
    return request, frozen.snapshot.digest


def _draw_number(session: Session, model_id: int) -> int:
    drawn: int | None = session.scalar(
        update(Model)
        .where(Model.id == model_id)
        .values(next_version=Model.next_version + 1)
        .returning(Model.next_version - 1)
    )
    assert drawn is not None
    return drawn


def _hand_over(session: Session, claim: Claim, request: FitRequest, fitted: Fitted) -> None:
    """Commit the version, the artefact check and the event together."""
    session.add(
        Version(
            model_id=claim.model_id,
            number=request.version,
            state=VersionState.CANDIDATE,
            run_id=claim.run_id,
            parent=request.parent_version,
            backbone_digest=request.backbone_digest,
            artefact_digest=fitted.artefact_digest,
            path=request.artefact,
            metrics=fitted.metrics,
        )
    )
    verified = fitted.metrics["verified"]
    session.add(
        GateCheck(
            run_id=claim.run_id,
            round=0,
            check="artefact",
            value=verified["max_abs_diff"],
            bound=verified["bound"],
            n=verified["n"],
            fixed=0,
            broken=0,
            passed=True,
            detail=verified
            | {"sentence": "Another process loaded the SavedModel and got the answers that LiteRT serves."},
        )
    )
    runs.update_claimed(
        session,
        claim,
        state=RunState.JUDGING,
        lease_until=None,
        heartbeat_at=func.now(),
        progress=runs.merge_progress({"part": "judge", "fraction": 0.0, "seconds": fitted.seconds}),
    )
    emit(session, CandidateTrained(model_id=claim.model_id, run_id=str(claim.run_id)))


def _fail(system: System, claim: Claim, reason: str) -> None:
    log.error("run %s failed: %s", claim.run_id, reason)
    _discard(system, claim)
    try:
        with system.db.transaction() as session:
            runs.end_run(session, claim, RunState.FAILED, reason)
    except LeaseLost as error:
        log.warning("%s", error.message)


def _discard(system: System, claim: Claim) -> None:
    """Only what this fence wrote: a later owner's folder has another name."""
    with system.db.reading() as session:
        name = session.get_one(Model, claim.model_id).name
    system.versions.discard(system.versions.candidate_path(name, claim.run_id, claim.fence))


def sweep_runs(session: Session, *, max_attempts: int, stuck_s: float) -> int:
    """Take runs from dead or stuck owners, and ring again for those that nobody has heard; how many."""
    around_commit(session, "sweeper")
    dead = runs.list_dead(session, stuck_s=stuck_s)
    for run in dead:
        run.fence += 1  # whatever the old owner still writes no longer counts
        if run.attempt < max_attempts:
            run.state = RunState.QUEUED
            run.lease_until = None
            run.heartbeat_at = func.now()
            emit(session, RunRequested(model_id=run.model_id, run_id=str(run.id), kind=run.kind))
        else:
            _give_up(session, run)
    unrung = runs.list_unrung(session, after_s=RING_AGAIN_S)
    for run in unrung:
        if run.lease_until is not None and run.attempt >= max_attempts:
            _give_up(session, run)
        else:
            run.heartbeat_at = func.now()
            emit(session, _doorbell(run))
    session.flush()
    return len(dead) + len(unrung)


def _give_up(session: Session, run: Run) -> None:
    run.reason = f"Whoever worked on it stopped {run.attempt} times while {run.state}; it is not tried again."
    run.state = RunState.FAILED
    run.lease_until = None
    run.ended_at = func.now()
    emit(session, RunEnded(model_id=run.model_id, run_id=str(run.id)))


def _doorbell(run: Run) -> Event:
    if run.state == RunState.QUEUED:
        return RunRequested(model_id=run.model_id, run_id=str(run.id), kind=run.kind)
    if run.state == RunState.JUDGING:
        return CandidateTrained(model_id=run.model_id, run_id=str(run.id))
    return CandidatePassed(model_id=run.model_id, run_id=str(run.id))
