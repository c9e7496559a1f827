"""Marks for the reviewer: corrections that neither the champion nor the neighbours support."""

import numpy as np
import pytest
from sqlalchemy.orm import Session

from backtalk import embeddings, leases
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.states import Scope
from backtalk.suspicion import NEIGHBOURS, find_neighbours, weigh
from backtalk.tables import Image, Model, Prediction
from tests import factories as make
from tests.clients import Api
from tests.integration.test_feedback import correct, predict

REVIEWER = Caller("user:alice", "alice", frozenset({Scope.REVIEW}))
CAT, DOG = np.eye(16)[0], np.eye(16)[1]


def embed(session: Session, image_id, vector) -> None:
    near = vector + np.random.default_rng(image_id.int % 2**32).normal(0, 0.01, 16)
    embeddings.save_embeddings(session, make.BACKBONE_DIGEST, [image_id], near[None].astype(np.float16))


def fill(session: Session, model: Model, label: str, vector, count: int = 12, **values) -> None:
    for _ in range(count):
        sample = make.make_sample(session, model, label=label, **values)
        embed(session, sample.image_id, vector)


def predict_beside_cats(session: Session, score_of_dog: float = 0.001, **values) -> Prediction:
    """A prediction of `cat` whose picture lies among cats, with dogs far away."""
    prediction = predict(session, scores=[1 - score_of_dog, score_of_dog], **values)
    model = session.get_one(Model, prediction.model_id)
    fill(session, model, "cat", CAT)
    fill(session, model, "dog", DOG)
    embed(session, prediction.image_id, CAT)
    return prediction


def test_a_report_that_nothing_speaks_for_is_marked_with_the_reason(database: Database):
    with database.reading() as session:
        correction = correct(session, predict_beside_cats(session), "dog")
        assert correction.suspicion == pytest.approx(0.999)
        assert correction.mark == (
            "The champion gave 'dog' a score of 0.1%, and of the 10 most similar training images that people "
            "labelled, none is 'dog' and 10 are 'cat'."
        )


def test_scores_that_a_device_sent_clear_nobody(database: Database):
    with database.reading() as session:
        correction = correct(session, predict_beside_cats(session, 0.9, made_elsewhere=True), "dog")
        assert correction.suspicion == 1
        assert correction.mark == (
            "A device predicted it, and of the 10 most similar training images that people labelled, none is "
            "'dog' and 10 are 'cat'."
        )


def test_where_a_device_answered_and_nothing_is_similar_nothing_is_weighed(database: Database):
    with database.reading() as session:
        correction = correct(session, predict(session, made_elsewhere=True), "dog")
        assert (correction.suspicion, correction.mark) == (None, None)


@pytest.mark.parametrize("policy", [{}, {"review": "auto"}])
def test_the_mark_decides_nothing(database: Database, policy: dict):
    with database.reading() as session:
        correction = correct(session, predict_beside_cats(session, policy=policy), "dog")
        assert correction.mark
        assert correction.state == ("approved" if policy else "pending")


def test_a_report_that_the_champion_thinks_possible_is_not_marked(database: Database):
    with database.reading() as session:
        correction = correct(session, predict_beside_cats(session, score_of_dog=0.3), "dog")
        assert (correction.suspicion, correction.mark) == (pytest.approx(0.7), None)


def test_wrong_reports_do_not_support_each_other(database: Database):
    with database.reading() as session:
        prediction = predict_beside_cats(session)
        model = session.get_one(Model, prediction.model_id)
        fill(session, model, "dog", CAT, by_person=False, origin="correction")
        assert find_neighbours(session, model, prediction.image_id) == ["cat"] * NEIGHBOURS


def test_neighbours_are_live_training_images_alone(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        model = session.get_one(Model, prediction.model_id)
        embed(session, prediction.image_id, CAT)
        fill(session, model, "dog", CAT, split="holdout")
        fill(session, model, "dog", CAT, retracted_at=make.tables.func.now())
        fill(session, model, "cat", DOG, count=3)
        assert find_neighbours(session, model, prediction.image_id) == ["cat"] * 3


def test_a_picture_that_the_champion_has_not_seen_is_weighed_by_its_score_alone(database: Database):
    with database.reading() as session:
        correction = correct(session, predict(session, scores=[0.99, 0.01]), "dog")
        assert correction.mark == "The champion gave 'dog' a score of 1.0%."


def test_one_neighbour_of_ten_is_enough_to_be_believed():
    assert weigh("dog", "cat", 0.0, ["cat"] * 9 + ["dog"]).reason is None
    assert weigh("dog", "cat", 0.0, ["cat"] * 10).reason is not None


def test_the_reviewer_gets_the_mark_with_the_item(api: Api, database: Database):
    with database.transaction() as session:
        prediction = predict_beside_cats(session)
        correct(session, prediction, "dog")
    item = api.get("/v1/models/animals/review").get_json()["items"][0]
    assert item["mark"].startswith("The champion gave 'dog' a score of 0.1%")
    assert item["suspicion"] > 0.99
    with database.transaction() as session:
        (view,) = leases.lease_items(session, caller=REVIEWER, model_name="animals") or [None]
        assert view is None  # the key holds it


def test_an_audit_has_no_mark(database: Database):
    with database.reading() as session:
        prediction = predict(session, audit=True)
        make.make_item(session, prediction)
        (view,) = leases.lease_items(session, caller=REVIEWER, model_name="animals")
        assert (view.mark, view.suspicion) == (None, None)
        assert session.get_one(Image, prediction.image_id)
