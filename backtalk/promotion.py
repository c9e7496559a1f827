"""Judges candidates and changes champions: by verdict, or by a person."""

import logging
from time import monotonic
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backtalk import champions, interventions, items, runs
from backtalk.callers import Caller
from backtalk.embeddings import EmbeddingGone
from backtalk.errors import ArtefactInvalid, LeaseLost
from backtalk.events import CandidatePassed, ChampionChanged
from backtalk.evidence import Contest, gather_evidence, get_contest
from backtalk.failpoints import around_commit, failpoint
from backtalk.gate import Judgement, judge
from backtalk.heartbeats import beating
from backtalk.interventions import Asked, Changed
from backtalk.outbox import emit
from backtalk.policy import Policy
from backtalk.recipes import read_recipe
from backtalk.runs import Claim
from backtalk.states import RunKind, RunState, Verdict, VersionState
from backtalk.system import System
from backtalk.tables import Backbone, GateCheck, Model, Prediction, Run, Version

log = logging.getLogger(__name__)

OFFERED_AT_MOST = 50  # images behind one veto that are offered for review


def judge_run(system: System, run_id: str) -> None:
    """Put the candidate before the gate, write every check down, and act on the verdict."""
    claim = _claim(system, run_id, RunState.JUDGING)
    if claim is None:
        return
    try:
        with beating(system, claim, RunState.JUDGING):
            failpoint("judging.after_claim")
            try:
                _judge_once(system, claim)
            except EmbeddingGone:  # an image was deleted while it was asked about: ask about the others
                _judge_once(system, claim)
    except LeaseLost as error:
        log.warning("%s", error.message)
    except ArtefactInvalid as error:
        _quarantine(system, claim, error.message)


def _judge_once(system: System, claim: Claim) -> None:
    with system.db.transaction() as session:
        _judge(session, system, claim)
        around_commit(session, "judging")


def _claim(system: System, run_id: str, state: RunState) -> Claim | None:
    with system.db.transaction() as session:
        return runs.claim_run(
            session,
            run_id,
            state,
            from_state=state,
            lease_s=system.settings.lease_s,
            max_attempts=system.settings.max_attempts,
        )


def _judge(session: Session, system: System, claim: Claim) -> None:
    started = monotonic()
    run = runs.get_run(session, claim.run_id)
    model = session.get_one(Model, claim.model_id)
    generation = model.generation  # read first: a change after this loses the compare-and-set
    contest = get_contest(session, model, champions.get_version(session, model, run.version))
    made_meanwhile = _find_moved(session, run, contest)
    if made_meanwhile is not None:
        _supersede(session, claim, contest, made_meanwhile)
        return
    recipe, policy = read_recipe(run.recipe), Policy.parse(model.policy)
    gathered = gather_evidence(session, system, model, contest, recipe)
    judgement = judge(gathered.evidence, policy)
    _write_checks(session, run, judgement)
    if any(c.check == "kept" and c.passed is False for c in judgement.checks):
        behind = zip(gathered.evidence.kept.image_ids, gathered.kept.predictions, strict=True)
        _offer_vetoed(session, judgement, dict(behind))
    seconds = {"judge": round(monotonic() - started, 3)}
    progress = runs.merge_progress({"part": "verdict", "fraction": 1.0, "seconds": seconds})
    runs.update_claimed(
        session, claim, verdict=judgement.verdict, judged_generation=generation, progress=progress
    )
    waits = recipe is not None and recipe.method == "quantise" and not policy.serve_int8
    _act_on(session, claim, model, contest.candidate, judgement, waits_for_person=waits)
    log.info("run %s: %s. %s", claim.run_id, judgement.verdict, judgement.reason)


def _find_moved(session: Session, run: Run, contest: Contest) -> str | None:
    """What was going on while the champion's backbone changed under it; None where it is the same."""
    seen, now = contest.candidate.backbone_digest, contest.champion.backbone_digest
    if run.kind == RunKind.HEAD:
        return "this head was being fitted" if seen != now else None
    copied = session.get_one(Backbone, seen).quantised_from
    return "its 8-bit copy was being made" if copied not in (None, now) else None


def _supersede(session: Session, claim: Claim, contest: Contest, meanwhile: str) -> None:
    contest.candidate.state = VersionState.REJECTED
    runs.end_run(
        session,
        claim,
        RunState.SUPERSEDED,
        f"The backbone changed with version {contest.champion.number} while {meanwhile}.",
    )


def _write_checks(session: Session, run: Run, judgement: Judgement) -> None:
    last = session.scalar(select(func.max(GateCheck.round)).where(GateCheck.run_id == run.id)) or 0
    for check in judgement.checks:
        session.add(
            GateCheck(
                run_id=run.id,
                round=last + 1,
                check=check.check,
                value=check.value,
                bound=check.bound,
                n=check.n,
                fixed=check.fixed,
                broken=check.broken,
                passed=check.passed,
                detail=check.detail,
            )
        )


def _offer_vetoed(session: Session, judgement: Judgement, predictions: dict[str, UUID | None]) -> None:
    """A confirmation may be wrong: let a person look at the images behind a veto of `kept`."""
    kept = next(c for c in judgement.checks if c.check == "kept")
    for image_id in kept.detail.get("broken_images", [])[:OFFERED_AT_MOST]:
        prediction_id = predictions.get(image_id)
        if prediction_id is not None:
            items.offer_audit(session, session.get_one(Prediction, prediction_id))


def _act_on(
    session: Session,
    claim: Claim,
    model: Model,
    candidate: Version,
    judgement: Judgement,
    *,
    waits_for_person: bool,
) -> None:
    candidate.metrics = candidate.metrics | {"better_than_anchor": judgement.better_than_anchor}
    if judgement.verdict is Verdict.REJECTED:
        candidate.state = VersionState.REJECTED
        runs.end_run(session, claim, RunState.REJECTED, judgement.reason)
    elif judgement.verdict is Verdict.INCONCLUSIVE:
        candidate.state = VersionState.INCONCLUSIVE
        runs.end_run(session, claim, RunState.INCONCLUSIVE, judgement.reason)
    elif model.hold:
        runs.end_run(session, claim, RunState.PASSED, f"{judgement.reason} Held: a person may promote it.")
    elif waits_for_person:
        said = f"{judgement.reason} The policy's serve_int8 is false: a person may promote it."
        runs.end_run(session, claim, RunState.PASSED, said)
    else:
        runs.update_claimed(
            session, claim, state=RunState.PROMOTING, reason=judgement.reason, lease_until=None
        )
        emit(session, CandidatePassed(model_id=model.id, run_id=str(claim.run_id)))


def _quarantine(system: System, claim: Claim, reason: str) -> None:
    """The artefact is not what was verified: it never goes live."""
    log.error("run %s: %s", claim.run_id, reason)
    with system.db.transaction() as session:
        run = runs.get_run(session, claim.run_id)
        model = session.get_one(Model, claim.model_id)
        champions.get_version(session, model, run.version).state = VersionState.QUARANTINED
        runs.end_run(session, claim, RunState.FAILED, reason)


def promote_run(system: System, run_id: str) -> None:
    """Make a passed candidate live, unless the champion changed since it was judged."""
    started = monotonic()
    claim = _claim(system, run_id, RunState.PROMOTING)
    if claim is None:
        return
    with system.db.reading() as session:
        run = runs.get_run(session, claim.run_id)
        model = session.get_one(Model, claim.model_id)
        version = champions.get_version(session, model, run.version)
    try:
        with beating(system, claim, RunState.PROMOTING):
            failpoint("promotion.after_claim")
            path = champions.publish(system, model, version)
            with system.db.transaction() as session:
                promoted = _promote(session, claim, model, version, path, started)
                around_commit(session, "promotion")
    except ArtefactInvalid as error:
        _quarantine(system, claim, error.message)
        return
    except LeaseLost as error:
        log.warning("%s", error.message)
        return
    if promoted:
        champions.rewrite_models_config(system)
        log.info("%s: version %d is live", model.name, version.number)
    else:
        champions.unpublish(system, version, path)


def _promote(
    session: Session, claim: Claim, model: Model, version: Version, path: str, started: float
) -> bool:
    """One transaction; False where the champion changed, or a hold came, since the verdict."""
    run = runs.get_run(session, claim.run_id)
    change = champions.Change(
        action="promote",
        actor=run.requested_by,
        run_id=run.id,
        path=path,
        anchor=bool(version.metrics.get("better_than_anchor")),
        detail={
            "verdict": run.verdict,
            "reason": run.reason,
            "snapshot_digest": run.snapshot_digest,
            "checks": champions.summarise_checks(session, run.id),
        },
    )
    assert run.judged_generation is not None
    generation = champions.change_champion(
        session, model.id, version.number, seen=run.judged_generation, change=change, unless_held=True
    )
    if generation is None:
        _lose(session, claim, model.id)
        return False
    seconds = {"promote": round(monotonic() - started, 3)}
    runs.end_run(
        session,
        claim,
        RunState.PROMOTED,
        run.reason or "",
        progress=runs.merge_progress({"part": "promoted", "fraction": 1.0, "seconds": seconds}),
    )
    return True


def _lose(session: Session, claim: Claim, model_id: int) -> None:
    """Another generation, or a hold, came first: the verdict no longer speaks of the champion."""
    runs.update_claimed(session, claim, state=RunState.JUDGING, lease_until=None)
    emit(session, ChampionChanged(model_id=model_id, run_id=str(claim.run_id)))


def promote_asked(system: System, model_id: int | None = None) -> None:
    """Publish and promote what persons asked for where they may not write the store."""
    with system.db.reading() as session:
        asked = interventions.list_asked(session, model_id)
    for model, version in asked:
        try:
            path = champions.publish(system, model, version)
        except ArtefactInvalid as error:
            log.warning("%s: version %d: %s", model.name, version.number, error.message)
            path = None
        with system.db.transaction() as session:
            done = interventions.settle_wish(session, model.name, version.id, path)
            now_at = session.get_one(Version, version.id).path
        if path is not None and not done and now_at != path:
            champions.unpublish(system, version, path)
    if asked:
        champions.rewrite_models_config(system)


def promote_version(
    system: System, *, model_name: str, number: int, caller: Caller, seen: int | None = None
) -> Changed | Asked:
    """`interventions.promote_version` in a transaction of its own, and models.config after it."""
    with system.db.transaction() as session:
        changed = interventions.promote_version(
            session, system, model_name=model_name, number=number, caller=caller, seen=seen
        )
    champions.rewrite_models_config(system)
    return changed


def rollback_model(system: System, *, model_name: str, caller: Caller, seen: int | None = None) -> Changed:
    """`interventions.rollback_model` in a transaction of its own, and models.config after it."""
    with system.db.transaction() as session:
        changed = interventions.rollback_model(
            session, system, model_name=model_name, caller=caller, seen=seen
        )
    champions.rewrite_models_config(system)
    return changed
