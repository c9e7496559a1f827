"""Who may speak of a prediction, and statements that contradict each other across predictions."""

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import feedback, review
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.errors import NotAllowed, PredictionNotFound
from backtalk.states import Action, ConfirmationState, CorrectionState, Origin, Scope, Side
from backtalk.tables import ApiKey, Correction, Model, OutboxEvent, Prediction, Sample
from tests import factories as make
from tests.integration.test_feedback import APP, confirm, correct, live_sample, open_item, predict

STRANGER = Caller("key:stranger", "stranger", frozenset({Scope.FEEDBACK}), key_id="stranger")


def make_key(session: Session, key_id: str, name: str) -> Caller:
    session.add(ApiKey(id=key_id, name=name, secret_sha256=key_id, scopes=["feedback"]))
    session.flush()
    return Caller(f"key:{key_id}", name, frozenset({Scope.FEEDBACK}), key_id=key_id)


def predict_again(session: Session, first: Prediction, **values) -> Prediction:
    """Another prediction on the same picture."""
    model = session.get_one(Model, first.model_id)
    image = session.get_one(make.tables.Image, first.image_id)
    return make.make_prediction(session, model, image, **({"label": "cat"} | values))


def auto(session: Session, prediction: Prediction) -> None:
    session.get_one(Model, prediction.model_id).policy = {"review": "auto"}
    session.flush()


# --- who may speak ---------------------------------------------------------------------------------
def test_a_key_cannot_speak_of_a_prediction_that_was_issued_to_another_app(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        with pytest.raises(PredictionNotFound, match="this key's app"):
            feedback.record_correction(
                session, caller=STRANGER, prediction_id=str(prediction.id), label="dog"
            )
        with pytest.raises(PredictionNotFound, match="this key's app"):
            feedback.record_confirmation(session, caller=STRANGER, prediction_id=str(prediction.id))
        assert make.count(session, Correction) == 0


def test_a_prediction_that_nobody_may_claim_is_spoken_of_by_reviewers_alone(database: Database):
    with database.reading() as session:
        prediction = predict(session, key_id=None)
        with pytest.raises(PredictionNotFound):
            correct(session, prediction, caller=APP)
        reviewer = Caller("key:r", "r", frozenset({Scope.FEEDBACK, Scope.REVIEW}), key_id="r")
        assert correct(session, prediction, caller=reviewer).state == CorrectionState.PENDING


def test_a_new_key_of_the_same_app_may_speak_of_what_the_old_one_was_told(database: Database):
    with database.reading() as session:
        make_key(session, "old", "camera")
        new, other = make_key(session, "new", "camera"), make_key(session, "other", "phone")
        prediction = predict(session, key_id="old")
        with pytest.raises(PredictionNotFound):
            correct(session, prediction, caller=other)
        assert correct(session, prediction, caller=new).state == CorrectionState.PENDING


def test_a_trusted_key_may_report_for_others(database: Database):
    with database.reading() as session:
        trusted = Caller("key:t", "t", frozenset({Scope.FEEDBACK}), key_id="t", trusted=True)
        assert correct(session, predict(session), caller=trusted).state == CorrectionState.PENDING


# --- contradictions across predictions -------------------------------------------------------------
def test_two_labels_for_one_picture_are_disputed_though_they_name_different_predictions(database: Database):
    with database.reading() as session:
        first = predict(session)
        session.get_one(Model, first.model_id).labels = ["cat", "dog", "fox"]
        session.flush()
        second = predict_again(session, first)
        one, two = correct(session, first, "dog"), correct(session, second, "fox")
        session.expire_all()
        assert (one.state, two.state) == (CorrectionState.DISPUTED, CorrectionState.DISPUTED)
        rung = [e.payload["prediction_id"] for e in session.scalars(select(OutboxEvent))]
        assert rung.count(str(first.id)) == 2  # its item must say that it is disputed now


def test_the_same_label_for_one_picture_is_no_contradiction(database: Database):
    with database.reading() as session:
        first = predict(session)
        second = predict_again(session, first)
        one, two = correct(session, first, "dog"), correct(session, second, "dog")
        assert (one.state, two.state) == (CorrectionState.PENDING, CorrectionState.PENDING)


def test_under_auto_approval_nobody_overrules_what_another_prediction_taught(database: Database):
    with database.reading() as session:
        first = predict(session)
        auto(session, first)
        correct(session, first, "dog")
        session.get_one(Model, first.model_id).labels = ["cat", "dog", "fox"]
        session.flush()
        later = correct(session, predict_again(session, first), "fox")
        assert later.state == CorrectionState.DISPUTED
        sample = live_sample(session, first)
        assert sample is not None
        assert sample.label == "dog"


def test_a_picture_of_the_base_folder_cannot_be_relabelled_by_an_app(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        auto(session, prediction)
        image = session.get_one(make.tables.Image, prediction.image_id)
        make.make_sample(session, session.get_one(Model, prediction.model_id), image, label="cat")
        assert correct(session, prediction, "dog").state == CorrectionState.DISPUTED
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.label, sample.origin) == ("cat", Origin.BASE)
        assert open_item(session, prediction) is not None


def test_a_confirmation_elsewhere_that_a_correction_contradicts_teaches_no_longer(database: Database):
    with database.reading() as session:
        first = predict(session)
        confirmation = confirm(session, first)
        assert live_sample(session, first) is not None
        second = predict_again(session, first)
        assert correct(session, second, "dog").state == CorrectionState.DISPUTED
        review.prepare_prediction(session, str(first.id))  # its event was emitted
        session.expire_all()
        assert confirmation.state == ConfirmationState.DISPUTED
        assert session.scalars(select(Sample).where(Sample.retracted_at.is_(None))).all() == []


def test_changing_ones_mind_about_one_prediction_is_no_contradiction(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.TRAIN)
        confirm(session, prediction)
        assert correct(session, prediction, "dog").state == CorrectionState.PENDING


# --- four eyes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("action", [Action.APPROVE, Action.RELABEL])
def test_under_four_eyes_nobody_gets_their_own_label_in_by_any_action(database: Database, action: Action):
    with database.reading() as session:
        prediction = predict(session)
        session.get_one(Model, prediction.model_id).policy = {"four_eyes": True}
        session.flush()
        both = Caller("key:app", "app", frozenset({Scope.FEEDBACK, Scope.REVIEW}), key_id="app")
        correct(session, prediction, "dog", both)
        item = open_item(session, prediction)
        assert item is not None
        label = "dog" if action is Action.RELABEL else None
        with pytest.raises(NotAllowed, match="four_eyes"):
            review.decide_item(
                session, caller=both, item_id=str(item.id), action=action, label=label, if_match="*"
            )
