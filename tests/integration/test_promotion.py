"""Judging, promoting and rolling back, with real heads on stored embeddings."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import embeddings, promotion, verification
from backtalk.callers import CLI
from backtalk.champions import rewrite_models_config
from backtalk.db import Database
from backtalk.errors import ArtefactInvalid, Conflict, NothingToRollBack
from backtalk.heads import Head
from backtalk.ledger import append_entry
from backtalk.snapshots import keep_snapshot
from backtalk.states import RunState, Split, Verdict, VersionState
from backtalk.store import write_sums
from backtalk.system import System
from backtalk.tables import (
    GateCheck,
    LedgerEntry,
    Model,
    OutboxEvent,
    ReviewItem,
    Run,
    Version,
)
from tests import factories as make

WIDTH = 16
RNG = np.random.default_rng(5)
CENTRES = RNG.normal(size=(2, WIDTH)).astype(np.float32)


def head(skill: float, seed: int = 0) -> Head:
    """Reads the two centres; `skill` 1 is exact, 0 knows nothing."""
    noise = np.random.default_rng(seed).normal(size=CENTRES.shape)
    weights = skill * CENTRES + (1 - skill) * noise
    bias = -skill * (CENTRES**2).sum(axis=1) / 2
    return Head(
        weights.astype(np.float32),
        bias.astype(np.float32),
        1.0,
        make.LABELS,
        make.BACKBONE_DIGEST,
    )


def write_version(
    system: System, session: Session, model: Model, number: int, made: Head, path: str, **values
) -> Version:
    folder = system.versions.root / path
    folder.mkdir(parents=True)
    made.save(folder / "head.npz")
    digest = write_sums(folder)
    return make.make_version(session, model, number, path=path, artefact_digest=digest, **values)


def add_samples(session: Session, model: Model, split: Split, count: int, seed: int = 1, **values) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = int(rng.integers(2))
        image = make.make_image(session)
        vector = (CENTRES[truth] + rng.normal(scale=1.0, size=WIDTH)).astype(np.float16)
        embeddings.save_embeddings(session, make.BACKBONE_DIGEST, [image.id], vector[None])
        make.make_sample(session, model, image, split=split, label=make.LABELS[truth], **values)


@pytest.fixture
def model(system: System) -> Model:
    """Live version 1 knows little; 300 holdout images."""
    with system.db.transaction() as session:
        model = make.make_model(session, live=False)
        version = write_version(system, session, model, 1, head(0.15), "animals/1", state=VersionState.LIVE)
        version.anchored_at = make.tables.func.now()
        model.live_version, model.generation, model.next_version = 1, 1, 2
        append_entry(
            session,
            model_id=model.id,
            seq=1,
            action="create",
            version=1,
            previous_version=None,
            run_id=None,
            actor="cli",
            artefact_digest=version.artefact_digest,
            detail={},
        )
        add_samples(session, model, Split.HOLDOUT, 300)
    rewrite_models_config(system)
    return model


def add_candidate(system: System, model: Model, made: Head, number: int = 2, **values) -> Run:
    with system.db.transaction() as session:
        run = make.make_run(
            session,
            model,
            state=RunState.JUDGING,
            version=number,
            base_version=1,
            fence=1,
            attempt=1,
            **values,
        )
        path = system.versions.candidate_path(model.name, run.id, 1)
        write_version(system, session, model, number, made, path, run_id=run.id)
        session.get_one(Model, model.id).next_version = number + 1
    return run


def reload(system: System, row: Run) -> Run:
    with system.db.reading() as session:
        return session.get_one(Run, row.id)


def live_number(system: System, model: Model) -> int | None:
    with system.db.reading() as session:
        return session.get_one(Model, model.id).live_version


def run_through(system: System, run: Run) -> Run:
    promotion.judge_run(system, str(run.id))
    promotion.promote_run(system, str(run.id))
    return reload(system, run)


def assert_verified(system: System) -> None:
    problems = [f for f in verification.verify(system) if f.problem]
    assert problems == []


def test_a_better_candidate_is_promoted_and_everything_agrees(system: System, model: Model):
    run = run_through(system, add_candidate(system, model, head(1.0)))
    assert (run.state, run.verdict) == (RunState.PROMOTED, Verdict.PASSED)
    assert live_number(system, model) == 2
    assert (system.versions.root / "animals" / "2" / "head.npz").is_file()
    assert system.versions.read_models_config() == {"animals": 2}
    with system.db.reading() as session:
        states = dict(session.execute(select(Version.number, Version.state)).all())
        assert states == {1: "retired", 2: "live"}
        events = set(session.scalars(select(OutboxEvent.event)))
        assert {"CandidatePassed", "VersionPromoted", "RunEnded"} <= events
        assert session.scalar(select(Version.anchored_at).where(Version.number == 2)) is not None
    assert_verified(system)


def test_every_check_is_a_row_with_the_images_behind_it(system: System, model: Model):
    run = run_through(system, add_candidate(system, model, head(1.0)))
    with system.db.reading() as session:
        checks = {c.check: c for c in session.scalars(select(GateCheck).where(GateCheck.run_id == run.id))}
    accuracy = checks["accuracy-champion"]
    assert accuracy.n == 300
    assert accuracy.fixed > accuracy.broken
    assert accuracy.passed
    assert len(accuracy.detail["fixed_images"]) == min(accuracy.fixed, 200)


def test_each_class_is_held_against_every_anchor_that_learned_from_nothing_withdrawn(
    system: System, model: Model
):
    leans = head(1.0)
    leans = replace(leans, bias=leans.bias + np.array([6, 0], np.float32))  # reads dogs as cats
    with system.db.transaction() as session:
        for number, made in ((2, head(1.0)), (3, head(0.9)), (4, leans)):
            version = write_version(system, session, model, number, made, f"animals/{number}")
            version.anchored_at = make.tables.func.clock_timestamp() if number < 4 else None
        session.flush()
        sample = make.make_sample(session, model, make.make_image(session), split=Split.TRAIN)
        sample.retraction_id = make.make_retraction(session).id
        sample.retracted_at = make.tables.func.now()
        digest = keep_snapshot(
            session, model.id, digest="d" * 64, sample_ids=[sample.id], stay_right_ids=[], counts={}
        ).digest
        learned = make.make_run(session, model, state=RunState.PROMOTED, version=3, snapshot_digest=digest)
        session.query(Version).filter_by(number=3).one().run_id = learned.id
    promotion.promote_version(system, model_name="animals", number=4, caller=CLI)

    run = run_through(system, add_candidate(system, model, leans, number=5))

    with system.db.reading() as session:
        checks = {c.check: c for c in session.scalars(select(GateCheck).where(GateCheck.run_id == run.id))}
    assert checks["class-recall"].passed  # nothing changed against the champion
    found = checks["class-recall-anchor"]
    assert (found.passed, found.detail["label"]) == (False, make.LABELS[1])
    assert found.detail["classes"][0]["against"] == 2
    assert {line["against"] for line in found.detail["classes"]} == {1, 2}
    assert run.state == RunState.REJECTED
    assert "against version 2" in run.reason


def test_a_worse_candidate_is_rejected_and_the_champion_stays(system: System, model: Model):
    run = run_through(system, add_candidate(system, model, head(0.0, seed=9)))
    assert run.state == RunState.REJECTED
    assert run.reason
    assert live_number(system, model) == 1
    assert_verified(system)


def test_a_frozen_candidate_passes_only_with_enough_holdout(system: System, model: Model):
    """300 images and no discordant pair: non-inferior. It is no new anchor, since it is not better."""
    run = run_through(system, add_candidate(system, model, head(0.15)))
    assert run.state == RunState.PROMOTED
    with system.db.reading() as session:
        assert session.scalar(select(Version.anchored_at).where(Version.number == 2)) is None


def test_without_a_holdout_nothing_is_promoted(system: System, model: Model):
    with system.db.transaction() as session:
        session.query(make.tables.Sample).delete()
    run = run_through(system, add_candidate(system, model, head(1.0)))
    assert run.state == RunState.INCONCLUSIVE
    assert live_number(system, model) == 1


def test_under_hold_a_passing_run_ends_in_passed_and_a_person_may_promote_it(system: System, model: Model):
    with system.db.transaction() as session:
        session.get_one(Model, model.id).hold = True
    run = run_through(system, add_candidate(system, model, head(1.0)))
    assert run.state == RunState.PASSED
    assert live_number(system, model) == 1
    answer = promotion.promote_version(system, model_name="animals", number=2, caller=CLI)
    assert answer == {"model": "animals", "version": 2, "generation": 2}
    assert_verified(system)


def test_a_candidate_that_lost_the_race_is_judged_again(system: System, model: Model):
    run = add_candidate(system, model, head(1.0))
    promotion.judge_run(system, str(run.id))
    with system.db.transaction() as session:
        write_version(system, session, model, 9, head(0.9), "animals/9")
    promotion.promote_version(system, model_name="animals", number=9, caller=CLI)
    promotion.promote_run(system, str(run.id))
    run = reload(system, run)
    assert run.state == RunState.JUDGING
    with system.db.reading() as session:
        assert "ChampionChanged" in set(session.scalars(select(OutboxEvent.event)))
    run = run_through(system, run)
    assert run.ended_at is not None
    with system.db.reading() as session:
        rounds = set(session.scalars(select(GateCheck.round).where(GateCheck.run_id == run.id)))
        assert rounds == {1, 2}
    assert_verified(system)


def test_two_promotions_at_once_leave_one_winner_and_an_unbroken_ledger(system: System, model: Model):
    with system.db.transaction() as session:
        for number in (5, 6):
            write_version(system, session, model, number, head(1.0), f"animals/{number}")
    threads = [
        threading.Thread(
            target=promotion.promote_version,
            args=(system,),
            kwargs={"model_name": "animals", "number": n, "caller": CLI},
        )
        for n in (5, 6)
    ]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with system.db.reading() as session:
        entries = list(session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq)))
    assert [e.seq for e in entries] == [1, 2, 3]
    assert entries[2].previous_version == entries[1].version
    assert_verified(system)


def test_the_same_message_many_times_judges_and_promotes_once(system: System, model: Model):
    run = add_candidate(system, model, head(1.0))
    threads = [threading.Thread(target=promotion.judge_run, args=(system, str(run.id))) for _ in range(10)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for _ in range(5):
        promotion.promote_run(system, str(run.id))
        promotion.judge_run(system, str(run.id))
    with system.db.reading() as session:
        checks = session.scalars(
            select(GateCheck.round).where(GateCheck.run_id == run.id, GateCheck.check == "brier")
        ).all()
        assert checks == [1]
        assert session.query(LedgerEntry).count() == 2


def test_rollback_is_one_call_and_sets_hold(system: System, model: Model):
    run_through(system, add_candidate(system, model, head(1.0)))
    answer = promotion.rollback_model(system, model_name="animals", caller=CLI)
    assert answer == {"model": "animals", "version": 1, "generation": 3}
    with system.db.reading() as session:
        assert session.get_one(Model, model.id).hold
        assert session.scalar(select(Version.anchored_at).where(Version.number == 2)) is None
    assert system.versions.read_models_config() == {"animals": 1}
    assert_verified(system)
    with pytest.raises(NothingToRollBack):
        promotion.rollback_model(system, model_name="animals", caller=CLI)


def test_a_flipped_byte_is_refused_at_promotion_and_the_champion_stays(system: System, model: Model):
    run = add_candidate(system, model, head(1.0))
    promotion.judge_run(system, str(run.id))
    with system.db.reading() as session:
        path = session.scalars(select(Version.path).where(Version.number == 2)).one()
    file = system.versions.root / path / "SHA256SUMS"
    file.write_bytes(file.read_bytes().replace(b"a", b"b"))
    promotion.promote_run(system, str(run.id))
    assert reload(system, run).state == RunState.FAILED
    assert live_number(system, model) == 1
    with system.db.reading() as session:
        assert session.scalar(select(Version.state).where(Version.number == 2)) == "quarantined"


def test_a_candidate_whose_files_changed_after_the_verdict_never_goes_live(system: System, model: Model):
    run = add_candidate(system, model, head(1.0))
    promotion.judge_run(system, str(run.id))
    with system.db.reading() as session:
        version = session.scalars(select(Version).where(Version.number == 2)).one()
    file = system.versions.resolve(version.path) / "head.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    promotion.promote_run(system, str(run.id))
    with system.db.reading() as session:
        assert session.scalar(select(Version.state).where(Version.number == 2)) == "quarantined"
        assert session.scalars(select(Model.live_version)).one() == 1
    assert not (system.versions.root / "animals" / "2").exists()


def test_a_person_cannot_promote_a_version_whose_files_changed(system: System, model: Model):
    add_candidate(system, model, head(1.0))
    with system.db.reading() as session:
        path = session.scalars(select(Version.path).where(Version.number == 2)).one()
    file = system.versions.root / path / "head.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtefactInvalid):
        promotion.promote_version(system, model_name="animals", number=2, caller=CLI)
    assert live_number(system, model) == 1


def test_the_live_version_and_a_rejected_one_cannot_be_promoted(system: System, model: Model):
    run_through(system, add_candidate(system, model, head(0.0, seed=9)))
    for number in (1, 2):
        with pytest.raises(Conflict):
            promotion.promote_version(system, model_name="animals", number=number, caller=CLI)


def test_a_broken_off_promotion_goes_on_where_it_stopped(system: System, model: Model):
    """The folder was renamed, the transaction never came: the next ring finds the folder and goes on."""
    run = add_candidate(system, model, head(1.0))
    promotion.judge_run(system, str(run.id))
    with system.db.reading() as session:
        version = session.scalars(select(Version).where(Version.number == 2)).one()
    system.versions.publish(version.path, "animals", 2, version.artefact_digest)
    promotion.promote_run(system, str(run.id))
    assert reload(system, run).state == RunState.PROMOTED
    assert_verified(system)


def test_verify_names_a_tampered_ledger(system: System, owner_database: Database, model: Model):
    run_through(system, add_candidate(system, model, head(1.0)))
    with owner_database.transaction() as session:
        session.connection().exec_driver_sql("SET session_replication_role = replica")
        session.connection().exec_driver_sql("UPDATE ledger SET version = 1 WHERE seq = 2")
    problems = [f.problem for f in verification.verify(system, "animals") if f.subject == "ledger"]
    assert problems
    assert "altered" in (problems[0] or "")


def test_images_behind_a_veto_of_kept_are_offered_for_review(system: System, model: Model):
    champion = head(0.15)
    vector = (CENTRES[0] * 3).astype(np.float16)
    confirmed = make.LABELS[int(champion.scores(vector[None]).argmax())]
    with system.db.transaction() as session:
        for _ in range(60):
            image = make.make_image(session)
            embeddings.save_embeddings(session, make.BACKBONE_DIGEST, [image.id], vector[None])
            prediction = make.make_prediction(session, model, image, label=confirmed)
            make.make_sample(
                session,
                model,
                image,
                split=Split.KEPT,
                label=confirmed,
                origin="confirmation",
                by_person=False,
                prediction_id=prediction.id,
            )
    opposite = Head(-champion.weights, -champion.bias, 1.0, champion.labels, champion.backbone_digest)
    run = run_through(system, add_candidate(system, model, opposite))
    with system.db.reading() as session:
        kept = session.scalars(
            select(GateCheck).where(GateCheck.run_id == run.id, GateCheck.check == "kept")
        ).one()
        offered = session.scalars(select(ReviewItem).where(ReviewItem.kind == "audit")).all()
    assert kept.passed is False
    assert run.state == RunState.REJECTED
    assert len(offered) == promotion.OFFERED_AT_MOST
