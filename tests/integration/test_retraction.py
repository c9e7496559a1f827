"""Taking back what was said: rows, judging sets, runs and versions follow, in one transaction."""

import threading

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import considerations, receipts, retraction, review, snapshots, triggers
from backtalk.callers import CLI, Caller
from backtalk.db import Database
from backtalk.errors import CorrectionNotFound, InvalidInput, LeaseLost, ModelNotFound, NotFound
from backtalk.lineage import Taint, find_tainted
from backtalk.runs import Claim, end_run
from backtalk.states import (
    Action,
    ConfirmationState,
    CorrectionState,
    Origin,
    RunState,
    Scope,
    Side,
    Split,
    VersionState,
    Withdrawn,
)
from backtalk.system import System
from backtalk.tables import (
    ApiKey,
    AuditEntry,
    Correction,
    Model,
    OutboxEvent,
    Prediction,
    Retraction,
    Run,
    Sample,
    Version,
)
from tests import factories as make
from tests.clients import Api, assert_problem
from tests.integration.test_feedback import APP, confirm, correct, live_sample, open_item, predict

TRUSTED = Caller("key:t", "t", frozenset({Scope.FEEDBACK}), key_id="t", trusted=True)
REVIEWER = Caller("user:alice", "alice", frozenset({Scope.REVIEW}))


def add_key(session: Session, key_id: str = "app") -> None:
    session.add(ApiKey(id=key_id, name=key_id, secret_sha256=key_id, scopes=["feedback"]))
    session.flush()


def withdraw(session: Session, what: str, subject: object, model: str | None = None) -> retraction.Retracted:
    made = retraction.retract(
        session, caller=CLI, what=Withdrawn(what), subject=str(subject), model_name=model
    )
    session.expire_all()
    return made


def approve(session: Session, prediction: Prediction, action: Action = Action.APPROVE, **values) -> None:
    item = open_item(session, prediction)
    assert item is not None
    review.decide_item(session, caller=REVIEWER, item_id=str(item.id), action=action, if_match="*", **values)


def learn(session: Session, model: Model, number: int, *, parent: int | None = 1, **chosen: float) -> Run:
    """A version that learned from what is live now."""
    frozen = snapshots.take_snapshot(session, model, make.BACKBONE_DIGEST)
    run = make.make_run(
        session,
        model,
        state=RunState.PROMOTED,
        snapshot_digest=frozen.snapshot.digest,
        decision_cut=frozen.decision_cut,
        base_version=parent,
        version=number,
    )
    metrics = {"chosen": {"alpha": 0.5, "strength": 0.0} | chosen}
    make.make_version(
        session, model, number, VersionState.RETIRED, run_id=run.id, parent=parent, metrics=metrics
    )
    return run


def go_live(session: Session, model: Model, number: int) -> None:
    rows = {v.number: v for v in session.scalars(select(Version).where(Version.model_id == model.id))}
    rows[model.live_version or 0].state = VersionState.RETIRED
    session.flush()
    rows[number].state, model.live_version = VersionState.LIVE, number
    session.flush()


def model_of(session: Session, prediction: Prediction) -> Model:
    return session.get_one(Model, prediction.model_id)


# --- statements and samples ------------------------------------------------------------------------
def test_a_withdrawn_correction_teaches_nothing_and_says_so(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"review": "auto"})
        correction = correct(session, prediction)
        assert live_sample(session, prediction) is not None
        made = withdraw(session, "correction", correction.id)
        assert (made.corrections, made.confirmations, made.samples) == (1, 0, 1)
        assert session.get_one(Correction, correction.id).state == CorrectionState.RETRACTED
        assert live_sample(session, prediction) is None


def test_withdrawing_twice_changes_nothing_and_still_tells_the_versions(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"review": "auto"})
        correction = correct(session, prediction)
        learn(session, model_of(session, prediction), 2)
        first = withdraw(session, "correction", correction.id)
        events = make.count(session, OutboxEvent)
        again = withdraw(session, "correction", correction.id)
        assert (again.corrections, again.samples) == (0, 0)
        assert again.models[0].versions == first.models[0].versions == [2]
        assert make.count(session, Retraction) == 1
        assert make.count(session, OutboxEvent) == events


def test_an_open_item_about_it_closes(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correction = correct(session, prediction)
        assert open_item(session, prediction) is not None
        withdraw(session, "correction", correction.id)
        assert open_item(session, prediction) is None


def test_an_item_that_somebody_elses_report_keeps_open_is_about_that_and_has_a_new_etag(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        first = correct(session, prediction, caller=APP)
        newest = correct(session, prediction, caller=TRUSTED)
        item = open_item(session, prediction)
        assert item is not None
        etag = item.etag
        assert item.correction_id == newest.id
        withdraw(session, "correction", newest.id)
        item = open_item(session, prediction)
        assert item is not None
        assert item.correction_id == first.id
        assert item.etag == etag + 1


def test_a_label_that_somebody_else_supports_stays(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correct(session, prediction, caller=APP)
        other = correct(session, prediction, caller=TRUSTED)
        approve(session, prediction)
        made = withdraw(session, "correction", other.id)
        assert (made.corrections, made.samples) == (1, 0)
        assert live_sample(session, prediction) is not None


def test_a_random_audit_that_a_person_answered_stays_in_the_holdout(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL, audit=True)
        correction = correct(session, prediction)
        approve(session, prediction)
        assert withdraw(session, "correction", correction.id).samples == 0
        sample = live_sample(session, prediction)
        assert sample is not None
        assert sample.split == Split.HOLDOUT


def test_withdrawing_a_reporter_takes_all_that_he_said_and_nobody_elses(database: Database):
    with database.reading() as session:
        add_key(session)
        mine, others, kept = predict(session, policy={"review": "auto"}), predict(session), predict(session)
        record(session, mine, "mallory")
        record(session, others, "bob")
        confirmation = confirm_as(session, kept, "mallory")
        made = withdraw(session, "reporter", "mallory")
        assert (made.corrections, made.confirmations, made.samples) == (1, 1, 2)
        assert live_sample(session, mine) is None
        assert live_sample(session, others) is not None
        assert confirmation.state == ConfirmationState.RETRACTED


def test_a_reporter_may_be_withdrawn_from_one_model_alone(database: Database):
    with database.reading() as session:
        here = predict(session)
        elsewhere = make.make_prediction(session, make.make_model(session, "plants"), label="cat")
        one, two = record(session, here, "mallory"), record(session, elsewhere, "mallory")
        made = withdraw(session, "reporter", "mallory", "plants")
        assert [affected.model for affected in made.models] == ["plants"]
        assert (one.state, two.state) == (CorrectionState.PENDING, CorrectionState.RETRACTED)


def test_withdrawing_a_key_takes_its_pictures_along_whoever_labelled_them(database: Database):
    with database.reading() as session:
        add_key(session)
        audited = predict(session, Side.EVAL, audit=True)
        make.make_item(session, audited)
        approve(session, audited)
        approved, reported_for = predict(session), predict(session)
        correct(session, approved)
        correct(session, reported_for, caller=TRUSTED)
        approve(session, approved)
        approve(session, reported_for)
        made = withdraw(session, "key", "app")
        assert (made.corrections, made.samples) == (1, 3)
        for prediction in (audited, approved, reported_for):
            assert live_sample(session, prediction) is None


def test_the_base_folders_label_is_there_again(database: Database):
    with database.transaction() as session:
        add_key(session)
        prediction = predict(session)
        image = session.get_one(make.tables.Image, prediction.image_id)
        base = make.make_sample(session, model_of(session, prediction), image, label="cat")
    with database.transaction() as session:
        correct(session, session.get_one(Prediction, prediction.id), "dog")
    with database.transaction() as session:
        approve(session, prediction)
    with database.transaction() as session:
        sample = live_sample(session, prediction)
        assert sample is not None
        assert sample.label == "dog"
        withdraw(session, "key", "app")
    with database.reading() as session:
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.label, sample.origin, sample.by_person) == ("cat", Origin.BASE, True)
        assert sample.id != base.id  # rows that were retracted stay so


def test_a_picture_that_was_deleted_meanwhile_does_not_come_back(database: Database):
    with database.transaction() as session:
        add_key(session)
        prediction = predict(session)
        image = session.get_one(make.tables.Image, prediction.image_id)
        make.make_sample(session, model_of(session, prediction), image, label="cat")
    with database.transaction() as session:
        correct(session, session.get_one(Prediction, prediction.id), "dog")
    with database.transaction() as session:
        approve(session, prediction)
    with database.transaction() as session:
        for sample in session.scalars(select(Sample).where(Sample.retracted_at.is_(None))):
            sample.retracted_at = make.tables.func.now()
    with database.transaction() as session:
        withdraw(session, "key", "app")
        assert live_sample(session, prediction) is None


def test_judging_sets_follow(database: Database):
    with database.reading() as session:
        add_key(session)
        reported, confirmed = predict(session, Side.EVAL), predict(session, Side.EVAL)
        correct(session, reported)
        approve(session, reported)
        confirm(session, confirmed)
        live = select(Sample.split).where(Sample.retracted_at.is_(None))
        assert sorted(session.scalars(live)) == [Split.KEPT, Split.REGRESSION]
        withdraw(session, "key", "app")
        assert session.scalars(live).all() == []


def test_who_withdrew_what_is_in_the_audit_log(database: Database):
    with database.transaction() as session:
        add_key(session)
        correct(session, predict(session))
        withdraw(session, "key", "app")
    with database.reading() as session:
        entry = session.scalars(select(AuditEntry)).one()
        assert (entry.actor, entry.action, entry.subject) == ("cli", "statements.retract", "key:app")
        assert entry.detail["corrections"] == 1
        assert entry.detail["model"] == "animals"


def test_what_is_not_there_cannot_be_withdrawn(database: Database):
    with database.reading() as session:
        predict(session)
        for what, subject, model, error in (
            ("correction", "nonsense", None, CorrectionNotFound),
            ("correction", "01890a5d-ac96-774b-bcce-b302099a8057", None, CorrectionNotFound),
            ("key", "nobody", None, NotFound),
            ("reporter", "nobody", None, NotFound),
            ("reporter", "nobody", "no-such-model", ModelNotFound),
            ("key", "app", "animals", InvalidInput),
        ):
            with pytest.raises(error):
                withdraw(session, what, subject, model)


# --- versions --------------------------------------------------------------------------------------
def test_versions_that_learned_from_it_are_told_through_their_parents_too(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        model = model_of(session, prediction)
        make.make_sample(session, model)
        correct(session, prediction)
        learn(session, model, 2)
        make.make_sample(session, model)
        approve_against(session, prediction)  # another label since: version 3 has not seen the old one itself
        learn(session, model, 3, parent=2)
        learn(session, model, 4, parent=2, alpha=1.0)  # takes nothing over
        correction = session.scalars(select(Correction).order_by(Correction.id)).first()
        assert correction is not None
        made = withdraw(session, "correction", correction.id)
        assert find_tainted(session, model.id) == {2: Taint(1, None), 3: Taint(0, 2)}
        assert made.models[0].versions == [2, 3]


def test_a_run_without_it_becomes_due_where_the_live_version_learned_from_it(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto", "min_approved": 100, "hold": False})
        model = model_of(session, prediction)
        correct(session, prediction)
        learn(session, model, 2)
        go_live(session, model, 2)
        model.hold = True  # somebody asked for it: hold keeps it from going live, not from being made
        made = withdraw(session, "key", "app")
        assert made.models[0].run_due
        check = triggers.consider_model(session, model.id)
        assert check.fired
        run = session.get_one(Run, check.run_id)
        retracted = session.scalars(select(Retraction)).one()
        assert run.trigger_key == f"withdrawn:{retracted.id}"
        assert "version 2 learned from something that was withdrawn" in check.counts["sentence"].lower()
        run.state, run.ended_at = RunState.FAILED, make.tables.func.now()
        session.flush()
        assert session.get_one(Run, triggers.consider_model(session, model.id).run_id).retry == 1


def test_one_run_for_each_retraction_whatever_its_verdict(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto", "min_approved": 100})
        model = model_of(session, prediction)
        correct(session, prediction)
        learn(session, model, 2)
        go_live(session, model, 2)
        withdraw(session, "key", "app")
        run = session.get_one(Run, triggers.consider_model(session, model.id).run_id)
        run.state, run.ended_at = RunState.INCONCLUSIVE, make.tables.func.now()
        session.flush()
        assert not triggers.consider_model(session, model.id).fired


def test_no_run_is_due_where_no_live_version_learned_from_it(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto", "min_approved": 1})
        model = model_of(session, prediction)
        correct(session, prediction)
        assert not withdraw(session, "key", "app").models[0].run_due
        check = triggers.consider_model(session, model.id)
        assert (check.fired, check.reason) == (False, "nothing-new")  # what was withdrawn counts no more


# --- runs under way --------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [RunState.TRAINING, RunState.JUDGING, RunState.PROMOTING])
def test_an_active_run_that_learned_from_it_ends_and_its_owner_can_write_nothing_more(
    database: Database, state: RunState
):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        model = model_of(session, prediction)
        correct(session, prediction)
        run = learn(session, model, 2)
        run.state, run.fence = state, 3
        session.flush()
        made = withdraw(session, "key", "app")
        assert made.models[0].ended_runs == [str(run.id)]
        assert run.state == RunState.SUPERSEDED
        candidate = session.scalars(select(Version).where(Version.number == 2)).one()
        assert candidate.state == VersionState.REJECTED
        with pytest.raises(LeaseLost):
            end_run(session, Claim(run.id, model.id, 3), RunState.PROMOTED, "passed")


def test_a_run_that_waits_goes_on_and_does_not_see_it(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        model = model_of(session, prediction)
        correct(session, prediction)
        run = make.make_run(session, model)
        assert withdraw(session, "key", "app").models[0].ended_runs == []
        assert run.state == RunState.QUEUED
        assert snapshots.take_snapshot(session, model, make.BACKBONE_DIGEST).snapshot.sample_ids == []


def test_a_run_that_is_judged_on_sets_that_changed_is_judged_anew(database: Database):
    with database.reading() as session:
        add_key(session)
        prediction = predict(session, Side.EVAL)
        model = model_of(session, prediction)
        make.make_sample(session, model)
        confirm(session, prediction)
        run = learn(session, model, 2)
        run.state = RunState.PROMOTING
        session.flush()
        withdraw(session, "key", "app")
        assert (run.state, run.fence) == (RunState.JUDGING, 1)
        events = [e.event for e in session.scalars(select(OutboxEvent).order_by(OutboxEvent.id))]
        assert events[-2:] == ["CandidateTrained", "StatementsWithdrawn"]


def test_withdrawing_waits_for_a_snapshot_that_is_being_cut(database: Database):
    """Either the snapshot is there before and its run ends, or it is cut after and does not have it."""
    with database.transaction() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        correct(session, prediction)
        model = model_of(session, prediction)
        run = make.make_run(session, model, state=RunState.TRAINING)
    done = threading.Event()

    def take_back() -> None:
        with database.transaction() as session:
            withdraw(session, "key", "app")
        done.set()

    with database.transaction() as session:
        frozen = snapshots.take_snapshot(session, session.get_one(Model, model.id), make.BACKBONE_DIGEST)
        assert len(frozen.snapshot.sample_ids) == 1
        thread = threading.Thread(target=take_back)
        thread.start()
        assert not done.wait(0.5)
        session.get_one(Run, run.id).snapshot_digest = frozen.snapshot.digest
    thread.join(10)
    with database.reading() as session:
        assert session.get_one(Run, run.id).state == RunState.SUPERSEDED


# --- over HTTP -------------------------------------------------------------------------------------
def test_withdrawing_over_http_needs_admin_and_is_done_once(api: Api, database: Database):
    with database.transaction() as session:
        prediction = predict(session, policy={"review": "auto"})
        correction = correct(session, prediction)
    body = {"what": "correction", "subject": str(correction.id)}
    refused = api.as_key("feedback", "review", "train", "promote").post("/v1/retractions", json=body)
    assert_problem(refused, 403, "not-allowed")
    first = api.post("/v1/retractions", json=body, headers={"Idempotency-Key": "once"})
    assert (first.status_code, first.get_json()["samples"]) == (200, 1)
    again = api.post("/v1/retractions", json=body, headers={"Idempotency-Key": "once"})
    assert again.get_json() == first.get_json()
    assert api.post("/v1/retractions", json=body).get_json()["samples"] == 0
    receipt = api.get(f"/v1/corrections/{correction.id}").get_json()
    assert receipt["state"] == "retracted"
    assert_problem(api.post("/v1/retractions", json=body | {"subject": "x"}), 404, "correction-not-found")


def test_a_version_that_learned_from_it_is_shown_as_such(api: Api, database: Database):
    with database.transaction() as session:
        add_key(session)
        prediction = predict(session, policy={"review": "auto"})
        correct(session, prediction)
        learn(session, model_of(session, prediction), 2)
    api.post("/v1/retractions", json={"what": "key", "subject": "app"})
    items = api.get("/v1/models/animals/versions").get_json()["items"]
    assert {v["number"]: v["withdrawn"] for v in items} == {1: None, 2: {"samples": 1, "through": None}}


def test_a_receipt_of_what_was_withdrawn_says_so(system: System, database: Database):
    with database.transaction() as session:
        prediction = predict(session, policy={"review": "auto"})
        correction_id = str(correct(session, prediction).id)
        withdraw(session, "correction", correction_id)
    with database.reading() as session:
        receipt = receipts.get_receipt(session, system.versions, correction_id)
    assert (receipt.state, receipt.split) == (CorrectionState.RETRACTED, None)


# --- what the tests do -----------------------------------------------------------------------------
def record(session: Session, prediction: Prediction, reporter: str) -> Correction:
    from backtalk import feedback

    made = feedback.record_correction(
        session, caller=APP, prediction_id=str(prediction.id), label="dog", reporter=reporter
    )
    review.prepare_prediction(session, str(prediction.id))
    return made


def confirm_as(session: Session, prediction: Prediction, reporter: str):
    from backtalk import feedback

    made = feedback.record_confirmation(
        session, caller=APP, prediction_id=str(prediction.id), reporter=reporter
    )
    review.prepare_prediction(session, str(prediction.id))
    return made


def approve_against(session: Session, prediction: Prediction) -> None:
    """Somebody else disputes it and a person finds him right."""
    model_of(session, prediction).labels = ["cat", "dog", "fox"]
    session.flush()
    correct(session, prediction, "fox", TRUSTED)
    approve(session, prediction)
    sample = live_sample(session, prediction)
    assert sample is not None
    assert (sample.label, sample.origin) == ("fox", Origin.CORRECTION)
    assert considerations.find_active_run(session, prediction.model_id, "head") is None  # type: ignore[arg-type]
