"""Statements of apps, from correction to sample."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import feedback, review
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.errors import PredictionNotFound, SameLabel, UnknownLabel
from backtalk.states import ConfirmationState, CorrectionState, ItemKind, Scope, Side, Split
from backtalk.tables import (
    ApiKey,
    Confirmation,
    Correction,
    Decision,
    OutboxEvent,
    Prediction,
    ReviewItem,
    Sample,
)
from tests import factories as make

APP = Caller("key:app", "app", frozenset({Scope.FEEDBACK}), key_id="app")
OTHER = Caller("key:other", "other", frozenset({Scope.FEEDBACK}), key_id="other", trusted=True)


def predict(session: Session, side: Side = Side.TRAIN, policy: dict | None = None, **values) -> Prediction:
    model = session.scalar(select(make.tables.Model)) or make.make_model(session, policy=policy or {})
    image = make.make_image(session)
    make.make_group(session, model, image, side)
    return make.make_prediction(session, model, image, label="cat", **values)


def correct(session: Session, prediction: Prediction, label: str = "dog", caller: Caller = APP) -> Correction:
    correction = feedback.record_correction(
        session, caller=caller, prediction_id=str(prediction.id), label=label
    )
    review.prepare_prediction(session, str(prediction.id))
    return correction


def confirm(session: Session, prediction: Prediction, caller: Caller = APP) -> Confirmation:
    confirmation = feedback.record_confirmation(session, caller=caller, prediction_id=str(prediction.id))
    review.prepare_prediction(session, str(prediction.id))
    return confirmation


def open_item(session: Session, prediction: Prediction) -> ReviewItem | None:
    session.expire_all()
    return session.scalar(
        select(ReviewItem).where(ReviewItem.prediction_id == prediction.id, ReviewItem.closed_at.is_(None))
    )


def live_sample(session: Session, prediction: Prediction) -> Sample | None:
    session.expire_all()
    return session.scalar(
        select(Sample).where(Sample.image_id == prediction.image_id, Sample.retracted_at.is_(None))
    )


def test_a_correction_waits_for_a_reviewer_and_its_event_is_committed_with_it(database: Database):
    with database.transaction() as session:
        prediction = predict(session)
        correction = correct(session, prediction)
    with database.reading() as session:
        assert session.get_one(Correction, correction.id).state == CorrectionState.PENDING
        item = open_item(session, prediction)
        assert item is not None
        assert (item.kind, item.reported) == (ItemKind.CORRECTION, "dog")
        assert [e.event for e in session.scalars(select(OutboxEvent))] == ["CorrectionReceived"]
        assert live_sample(session, prediction) is None


def test_an_unknown_prediction_is_refused(database: Database):
    with database.reading() as session:
        for wrong in ("nonsense", "01890a5d-ac96-774b-bcce-b302099a8057"):
            with pytest.raises(PredictionNotFound):
                feedback.record_correction(session, caller=APP, prediction_id=wrong, label="dog")


def test_an_unknown_label_is_refused_with_the_list_of_labels(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        with pytest.raises(UnknownLabel) as refusal:
            correct(session, prediction, "wolf")
        assert refusal.value.extra["labels"] == ["cat", "dog"]


def test_a_correction_equal_to_the_prediction_points_to_confirmations(database: Database):
    with database.reading() as session, pytest.raises(SameLabel, match="confirmations"):
        correct(session, predict(session), "cat")


def test_the_same_reporter_again_replaces_his_own_pending_statement(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={})
        prediction_model = session.get_one(make.tables.Model, prediction.model_id)
        prediction_model.labels = ["cat", "dog", "fox"]
        session.flush()
        first = correct(session, prediction, "dog")
        second = correct(session, prediction, "fox")
        session.expire_all()
        assert (first.state, second.state) == (CorrectionState.RETRACTED, CorrectionState.PENDING)
        item = open_item(session, prediction)
        assert item is not None
        assert item.reported == "fox"
        assert item.etag == 2  # whoever read the first one must read again


def test_reporters_who_disagree_are_disputed_and_the_newest_is_offered(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        session.get_one(make.tables.Model, prediction.model_id).labels = ["cat", "dog", "fox"]
        session.flush()
        first = correct(session, prediction, "dog")
        second = correct(session, prediction, "fox", OTHER)
        session.expire_all()
        assert first.state == second.state == CorrectionState.DISPUTED
        item = open_item(session, prediction)
        assert item is not None
        assert item.reported == "fox"


def test_a_confirmation_against_a_correction_disputes_both(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correction = correct(session, prediction)
        confirmation = confirm(session, prediction, OTHER)
        session.expire_all()
        assert correction.state == CorrectionState.DISPUTED
        assert confirmation.state == ConfirmationState.DISPUTED
        assert live_sample(session, prediction) is None


def test_a_confirmation_on_the_train_side_is_a_sample_at_once(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.TRAIN)
        confirm(session, prediction)
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.label, sample.by_person) == (
            "train",
            "cat",
            False,
        )


def test_a_confirmation_on_the_eval_side_enters_kept(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL)
        confirm(session, prediction)
        sample = live_sample(session, prediction)
        assert sample is not None
        assert sample.split == Split.KEPT


def test_a_confirmation_that_is_contradicted_stops_being_a_sample(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        confirm(session, prediction)
        correct(session, prediction, "dog", OTHER)
        assert live_sample(session, prediction) is None


def test_changing_ones_mind_from_confirmation_to_correction_leaves_one_pending_statement(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        confirmation = confirm(session, prediction)
        correction = correct(session, prediction)
        session.expire_all()
        assert confirmation.state == ConfirmationState.RETRACTED
        assert correction.state == CorrectionState.PENDING
        assert live_sample(session, prediction) is None


def test_automatic_approval_writes_a_decision_by_the_policy(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.TRAIN, policy={"review": "auto"})
        correction = correct(session, prediction)
        session.expire_all()
        decision = session.scalars(select(Decision)).one()
        assert (decision.actor, decision.counts, decision.label) == ("policy", True, "dog")
        assert correction.state == CorrectionState.APPROVED
        assert correction.decision_id == decision.id
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.label, sample.by_person) == ("dog", False)
        assert open_item(session, prediction) is None


def test_nothing_approved_by_policy_alone_enters_a_judging_set(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL, policy={"review": "auto"})
        correction = correct(session, prediction)
        session.expire_all()
        assert correction.state == CorrectionState.APPROVED
        assert live_sample(session, prediction) is None


def test_an_audited_prediction_waits_for_a_person_under_every_policy(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL, policy={"review": "auto"}, audit=True)
        correct(session, prediction)
        item = open_item(session, prediction)
        assert item is not None
        assert item.kind == ItemKind.CORRECTION
        assert session.scalars(select(Decision)).all() == []


def test_only_corrections_of_trusted_keys_are_approved_under_trusted(database: Database):
    with database.reading() as session:
        for key_id, trusted in (("app", True), ("other", False)):
            session.add(
                ApiKey(id=key_id, name=key_id, secret_sha256="x", scopes=["feedback"], trusted=trusted)
            )
        believed = predict(session, policy={"review": "trusted"})
        doubted = predict(session)
        assert correct(session, believed, caller=APP).id
        assert correct(session, doubted, caller=OTHER).id
        assert open_item(session, believed) is None
        assert open_item(session, doubted) is not None


def test_preparing_twice_changes_nothing(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"review": "auto"})
        correct(session, prediction)
        review.prepare_prediction(session, str(prediction.id))
        assert len(session.scalars(select(Decision)).all()) == 1
        assert len(session.scalars(select(Sample)).all()) == 1


def test_a_correction_after_the_decision_is_disputed_and_offered_anew(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"review": "auto"})
        session.get_one(make.tables.Model, prediction.model_id).labels = ["cat", "dog", "fox"]
        session.flush()
        correct(session, prediction, "dog")
        later = correct(session, prediction, "fox", OTHER)
        session.expire_all()
        assert later.state == CorrectionState.DISPUTED
        item = open_item(session, prediction)
        assert item is not None
        assert item.reported == "fox"
