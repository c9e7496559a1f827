"""Runs a queued run: snapshot, fit, verify, and hand the candidate over to the judge."""

import logging
import os
import signal
from time import monotonic
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk import runs
from backtalk.boards import find_board, name_board
from backtalk.champions import get_champion, locate
from backtalk.errors import (
    BacktalkError,
    LeaseLost,
    Superseded,
    TrainerFailed,
    WorkerStopping,
)
from backtalk.events import CandidateTrained
from backtalk.failpoints import around_commit, failpoint
from backtalk.fitting import FitRequest, Fitted, fit_head
from backtalk.heartbeats import AWAY, Heart, Stopping, never
from backtalk.lessons import read_lessons
from backtalk.lineage import find_tainted
from backtalk.outbox import emit
from backtalk.runs import Claim
from backtalk.snapshots import take_snapshot
from backtalk.states import RunKind, RunState, VersionState
from backtalk.system import System
from backtalk.tables import GateCheck, Model, Version
from backtalk.trainers import Trainers
from backtalk.tuning import Tuned, check_parent, clear_work, tune_backbone

log = logging.getLogger(__name__)

#: How a trainer ends that somebody asked to stop: by itself, or before it could listen.
TRY_AGAIN = (os.EX_TEMPFAIL, -int(signal.SIGTERM))


def train_run(system: System, trainers: Trainers, run_id: str, is_stopping: Stopping = never) -> None:
    """Train one run; returns at once where there is nothing to do (the message was late or doubled).

    A worker that is stopping gives the run back with no attempt charged. A trainer that dies is charged, and
    the run waits for the sweeper to ring again, until its attempts are used up: then it is quarantined.
    """
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
        _train(system, trainers, claim, is_stopping)
    except LeaseLost as error:
        log.warning("%s", error.message)
        _discard(system, claim)
    except AWAY:
        log.warning("run %s: the database is away; whoever is rung for next takes it up", claim.run_id)
    except WorkerStopping as error:
        _let_go(system, claim, error.message, charged=False)
    except TrainerFailed as error:
        _weigh_failure(system, claim, error)
    except Superseded as error:
        _end(system, claim, RunState.SUPERSEDED, error.message)
    except BacktalkError as error:  # each of them says in a sentence what is wrong
        _end(system, claim, RunState.FAILED, error.message)
    except Exception as error:
        _end(system, claim, RunState.FAILED, f"Unexpected {type(error).__name__}: {error}")
        raise


def _train(system: System, trainers: Trainers, claim: Claim, is_stopping: Stopping) -> None:
    started = monotonic()
    heart = Heart(system, claim, is_stopping)
    with system.db.reading() as session:
        is_full = runs.get_run(session, claim.run_id).kind == RunKind.FULL
    tuned = tune_backbone(system, claim, heart) if is_full else None
    with system.db.transaction() as session:
        request, digest = _prepare(session, system, claim, tuned)
        around_commit(session, "training.snapshot")
    data = read_lessons(system, claim.model_id, request, digest)
    heart({"part": "read", "seconds": {"read": round(monotonic() - started, 3)}})
    fitted = fit_head(system.versions, trainers, request, data, heart)
    with system.db.transaction() as session:
        _hand_over(session, claim, request, fitted)
        around_commit(session, "training.hand_over")
    clear_work(system.versions.root, claim.run_id)
    log.info("run %s: candidate %d trained", claim.run_id, request.version)


def _prepare(session: Session, system: System, claim: Claim, tuned: Tuned | None) -> tuple[FitRequest, str]:
    """Freeze what the head is fitted to, newer than what its backbone learned from; draw the number.

    Raises:
        Superseded: an 8-bit backbone is a copy of one that is the champion's no longer.
    """
    run = runs.get_run(session, claim.run_id)
    model = session.get_one(Model, claim.model_id)
    champion = get_champion(session, model.id)
    if tuned is not None:
        check_parent(champion, tuned.quantised_from)
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
        backbone_digest=tuned.digest if tuned else champion.backbone_digest,
        champion_head=None if tainted else locate(system, champion) / "head.npz",
        seed=run.seed,
        snapshot_digest=frozen.snapshot.digest,
        artefact=system.versions.candidate_path(model.name, run.id, claim.fence),
        tuning=tuned.facts if tuned else None,
        board=find_board(system, name_board(model.name, run.kind, run.id, run.created_at)),
        saved_model=locate(system, champion) if tuned and tuned.quantised_from else None,
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
            detail=verified | {"sentence": _say_verified(verified)},
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


def _say_verified(verified: dict[str, Any]) -> str:
    if verified["bound"] is not None:
        return "Another process loaded the SavedModel and got the answers that LiteRT serves."
    return (
        f"Another process loaded the float SavedModel: it gives {verified['same_label']:.1%} of the golden "
        "images the label that the 8-bit backbone gives, near-ties counted as alike."
    )


def _weigh_failure(system: System, claim: Claim, error: TrainerFailed) -> None:
    """A trainer that was ended is no fault of the run; one that died may be; one that said why is."""
    status = error.extra.get("status")
    if status in TRY_AGAIN:
        _let_go(system, claim, error.message, charged=False)
    elif status is not None:
        _let_go(system, claim, error.message, charged=True)
    else:
        _end(system, claim, RunState.FAILED, error.message)


def _let_go(system: System, claim: Claim, reason: str, *, charged: bool) -> None:
    log.warning("run %s: %s", claim.run_id, reason)
    _discard(system, claim)
    failpoint("training.before_give_back")
    try:
        with system.db.transaction() as session:
            runs.give_back(session, claim, reason, charged=charged, max_attempts=system.settings.max_attempts)
    except LeaseLost as error:
        log.warning("%s", error.message)


def _end(system: System, claim: Claim, state: RunState, reason: str) -> None:
    level = logging.ERROR if state is RunState.FAILED else logging.INFO
    log.log(level, "run %s %s: %s", claim.run_id, state, reason)
    _discard(system, claim)
    try:
        with system.db.transaction() as session:
            runs.end_run(session, claim, state, reason, while_in=(RunState.TRAINING,))
        clear_work(system.versions.root, claim.run_id)
    except LeaseLost as error:
        log.warning("%s", error.message)


def _discard(system: System, claim: Claim) -> None:
    """Only what this fence wrote (a later owner's folder has another name), unless it was handed over: then
    it is a version, whatever befell us afterwards.
    """
    with system.db.reading() as session:
        name = session.get_one(Model, claim.model_id).name
        path = system.versions.candidate_path(name, claim.run_id, claim.fence)
        handed_over = session.scalar(
            select(Version.number).where(Version.model_id == claim.model_id, Version.path == path)
        )
    if handed_over is None:
        system.versions.discard(path)
