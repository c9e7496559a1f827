"""Decisions of reviewers: leases, etags, quorum, and what each action teaches."""

from dataclasses import asdict, replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk import doorbells, leases, review
from backtalk.callers import Caller
from backtalk.db import Database
from backtalk.errors import EtagMissing, InvalidInput, ItemChanged, NotAllowed, UnknownLabel
from backtalk.states import Action, CorrectionState, Queue, Scope, Side, Split
from backtalk.tables import Correction, Decision, Model, OutboxEvent, Prediction, ReviewItem, Sample
from tests import factories as make
from tests.integration.test_feedback import APP, OTHER, confirm, correct, live_sample, open_item, predict

ALICE = Caller("user:alice", "alice", frozenset({Scope.REVIEW}))
BOB = Caller("user:bob", "bob", frozenset({Scope.REVIEW}))
CAROL = Caller("user:carol", "carol", frozenset({Scope.REVIEW}))
ADMIN = Caller("user:root", "root", frozenset({Scope.ADMIN}))


def audit(session: Session, side: Side = Side.EVAL) -> Prediction:
    prediction = predict(session, side, audit=True)
    review.prepare_prediction(session, str(prediction.id))
    return prediction


def decide(
    session: Session,
    prediction: Prediction,
    action: Action,
    label: str | None = None,
    caller: Caller = ALICE,
    etag: str | None = None,
) -> Decision:
    item = open_item(session, prediction)
    assert item is not None
    return review.decide_item(
        session,
        caller=caller,
        item_id=str(item.id),
        action=action,
        label=label,
        if_match=etag or f'"{item.etag}"',
    )


@pytest.mark.parametrize(
    ("side", "split"),
    [(Side.TRAIN, "train"), (Side.VALIDATION, "validation"), (Side.EVAL, "regression")],
)
def test_an_approved_correction_goes_where_its_group_was_drawn(database: Database, side: Side, split: str):
    with database.reading() as session:
        prediction = predict(session, side)
        correction = correct(session, prediction)
        decision = decide(session, prediction, Action.APPROVE)
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.label, sample.by_person) == (split, "dog", True)
        assert correction.state == CorrectionState.APPROVED
        assert (decision.final, decision.counts) == (True, True)
        events = [e.event for e in session.scalars(select(OutboxEvent).order_by(OutboxEvent.id))]
        assert events[-1] == "StatementApproved"
        assert session.get_one(Model, prediction.model_id).consider_at is not None


def test_approving_an_audit_says_that_the_prediction_is_right_and_feeds_the_holdout(database: Database):
    with database.reading() as session:
        prediction = audit(session)
        decide(session, prediction, Action.APPROVE)
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.label) == (Split.HOLDOUT, "cat")


def test_an_audit_that_the_app_corrected_still_feeds_the_holdout(database: Database):
    with database.reading() as session:
        prediction = audit(session)
        correct(session, prediction)
        decide(session, prediction, Action.APPROVE)
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.label) == (Split.HOLDOUT, "dog")


def test_a_correction_that_arrives_later_changes_the_open_audit_and_its_etag(database: Database):
    with database.reading() as session:
        prediction = audit(session)
        before = open_item(session, prediction)
        assert before is not None
        assert before.kind == "audit"
        old_etag = f'"{before.etag}"'
        correct(session, prediction)
        with pytest.raises(ItemChanged):
            decide(session, prediction, Action.APPROVE, etag=old_etag)
        after = open_item(session, prediction)
        assert after is not None
        assert (after.kind, after.id) == ("correction", before.id)


def test_a_decision_without_if_match_is_refused(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correct(session, prediction)
        item = open_item(session, prediction)
        assert item is not None
        with pytest.raises(EtagMissing):
            review.decide_item(
                session, caller=ALICE, item_id=str(item.id), action=Action.APPROVE, if_match=None
            )


def test_the_second_of_two_reviewers_learns_what_was_decided_and_an_admin_by_whom(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correct(session, prediction)
        item = open_item(session, prediction)
        assert item is not None
        decide(session, prediction, Action.APPROVE)
        with pytest.raises(ItemChanged, match=r"Decided as 'dog' by another reviewer \d s ago") as late:
            review.decide_item(
                session, caller=BOB, item_id=str(item.id), action=Action.REJECT, if_match='"1"'
            )
        assert late.value.extra["decided_as"] == "dog"
        assert 0 <= late.value.extra["seconds_ago"] < 10
        assert "alice" not in str(late.value.extra)
        with pytest.raises(ItemChanged, match="by user:alice") as late:
            review.decide_item(
                session, caller=ADMIN, item_id=str(item.id), action=Action.REJECT, if_match='"1"'
            )
        assert late.value.extra["decided_by"] == "user:alice"


def test_relabelling_to_the_predicted_label_is_a_confirmation_by_a_person(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL)
        correction = correct(session, prediction)
        decide(session, prediction, Action.RELABEL, "cat")
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.by_person) == (Split.KEPT, True)
        assert correction.state == CorrectionState.REJECTED


def test_a_rejected_correction_teaches_nothing_and_does_not_count(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correction = correct(session, prediction)
        decision = decide(session, prediction, Action.REJECT)
        assert not decision.counts
        assert correction.state == CorrectionState.REJECTED
        assert live_sample(session, prediction) is None
        assert session.get_one(Model, prediction.model_id).consider_at is None


def test_relabelling_to_a_third_label_approves_the_complaint_with_the_right_label(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        session.get_one(Model, prediction.model_id).labels = ["cat", "dog", "fox"]
        session.flush()
        correction = correct(session, prediction, "dog")
        decide(session, prediction, Action.RELABEL, "fox")
        sample = live_sample(session, prediction)
        assert sample is not None
        assert sample.label == "fox"
        assert correction.state == CorrectionState.APPROVED


def test_relabel_needs_a_known_label_and_approve_takes_none(database: Database):
    with database.reading() as session:
        prediction = predict(session)
        correct(session, prediction)
        with pytest.raises(UnknownLabel):
            decide(session, prediction, Action.RELABEL, "wolf")
        with pytest.raises(InvalidInput):
            decide(session, prediction, Action.RELABEL)
        with pytest.raises(InvalidInput):
            decide(session, prediction, Action.APPROVE, "dog")


def test_a_confirmed_image_behind_a_veto_is_relabelled_into_regression(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL)
        confirm(session, prediction)
        from backtalk.items import offer_audit

        offer_audit(session, prediction)
        decide(session, prediction, Action.RELABEL, "dog")
        sample = live_sample(session, prediction)
        assert sample is not None
        assert (sample.split, sample.label) == (Split.REGRESSION, "dog")


def test_rejecting_a_confirmed_image_behind_a_veto_retracts_it(database: Database):
    with database.reading() as session:
        prediction = predict(session, Side.EVAL)
        confirm(session, prediction)
        from backtalk.items import offer_audit

        offer_audit(session, prediction)
        decide(session, prediction, Action.REJECT)
        assert live_sample(session, prediction) is None


def test_an_image_of_the_holdout_stays_there_when_a_person_relabels_it(database: Database):
    with database.reading() as session:
        first = audit(session)
        decide(session, first, Action.APPROVE)
        image = session.get_one(make.tables.Image, first.image_id)
        again = make.make_prediction(session, session.get_one(Model, first.model_id), image, label="cat")
        correct(session, again)
        decide(session, again, Action.APPROVE)
        sample = live_sample(session, again)
        assert sample is not None
        assert (sample.split, sample.label) == (Split.HOLDOUT, "dog")
        rows = session.scalars(select(Sample).where(Sample.image_id == image.id)).all()
        assert sum(row.retracted_at is None for row in rows) == 1


def test_two_reviewers_never_hold_the_same_item(database: Database):
    with database.transaction() as session:
        for _ in range(4):
            correct(session, predict(session))
    with database.transaction() as first, database.transaction() as second:
        mine = leases.lease_items(first, caller=ALICE, model_name="animals", limit=3)
        theirs = leases.lease_items(second, caller=BOB, model_name="animals", limit=3)
        assert (len(mine), len(theirs)) == (3, 1)
        assert not {i.item for i in mine} & {i.item for i in theirs}


def test_asking_again_returns_ones_own_open_items_first(database: Database):
    with database.reading() as session:
        for _ in range(3):
            correct(session, predict(session))
        mine = leases.lease_items(session, caller=ALICE, model_name="animals", limit=2)
        again = leases.lease_items(session, caller=ALICE, model_name="animals", limit=3)
        assert [i.item for i in again[:2]] == [i.item for i in mine]


def test_a_skipped_item_goes_back_and_this_reviewer_gets_it_last(database: Database):
    with database.reading() as session:
        predictions = [predict(session) for _ in range(2)]
        for prediction in predictions:
            correct(session, prediction)
        decide(session, predictions[0], Action.SKIP)
        mine = leases.lease_items(session, caller=ALICE, model_name="animals", limit=2)
        assert [i.prediction for i in mine] == [str(p.id) for p in reversed(predictions)]
        theirs = open_item(session, predictions[0])
        assert theirs is not None
        assert theirs.closed_at is None


def test_an_expired_lease_is_free_again(database: Database):
    with database.reading() as session:
        correct(session, predict(session))
        leases.lease_items(session, caller=ALICE, model_name="animals")
        assert leases.lease_items(session, caller=BOB, model_name="animals") == []
        session.execute(make.tables.ReviewItem.__table__.update().values(lease_until=make.tables.func.now()))
        assert len(leases.lease_items(session, caller=BOB, model_name="animals")) == 1


def test_under_four_eyes_nobody_approves_what_they_reported(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"four_eyes": True})
        correct(session, prediction)
        reviewing_app = Caller("key:app", "app", frozenset({Scope.REVIEW}), key_id="app")
        assert leases.lease_items(session, caller=reviewing_app, model_name="animals") == []
        with pytest.raises(NotAllowed):
            decide(session, prediction, Action.APPROVE, caller=reviewing_app)


def test_with_a_quorum_of_two_agreement_is_final(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"quorum": 2})
        correct(session, prediction)
        assert not decide(session, prediction, Action.APPROVE, caller=ALICE).final
        with pytest.raises(NotAllowed):
            decide(session, prediction, Action.APPROVE, caller=ALICE)
        assert leases.lease_items(session, caller=ALICE, model_name="animals") == []
        assert decide(session, prediction, Action.APPROVE, caller=BOB).final
        assert live_sample(session, prediction) is not None


def test_the_second_reviewer_cannot_tell_that_there_was_a_first(database: Database):
    with database.reading() as session:
        first = predict(session, policy={"quorum": 2})
        second = predict(session)
        for prediction in (first, second):
            correct(session, prediction)
        before = leases.lease_items(session, caller=ALICE, model_name="animals")[0]
        decide(session, first, Action.RELABEL, "cat", caller=ALICE)
        session.query(ReviewItem).update({"lease_until": None})
        session.expire_all()
        seen, untouched = leases.lease_items(session, caller=BOB, model_name="animals")
        same = {"lease_until": before.lease_until}
        assert replace(seen, **same) == replace(before, **same)
        differing = {name for name, value in asdict(seen).items() if value != asdict(untouched)[name]}
        assert differing <= {"item", "correction", "prediction", "image_id", "group"}


def test_with_a_quorum_of_two_disagreement_goes_to_an_expert_and_never_to_a_third_vote(database: Database):
    expert = Caller("user:eve", "eve", frozenset({Scope.REVIEW, Scope.EXPERT}))
    with database.reading() as session:
        prediction = predict(session, policy={"quorum": 2})
        correct(session, prediction)
        decide(session, prediction, Action.APPROVE, caller=ALICE)
        assert not decide(session, prediction, Action.REJECT, caller=BOB).final
        assert leases.lease_items(session, caller=CAROL, model_name="animals") == []
        with pytest.raises(NotAllowed, match="expert"):
            decide(session, prediction, Action.APPROVE, caller=CAROL)
        leased = leases.lease_items(session, caller=expert, model_name="animals", queue=Queue.DISPUTED)
        assert [view.flagged_by for view in leased] == ["quorum"]
        assert decide(session, prediction, Action.APPROVE, caller=expert).final


def test_where_there_is_no_expert_an_admin_settles_a_disagreement_but_is_never_both_of_two(
    database: Database,
):
    with database.reading() as session:
        prediction = predict(session, policy={"quorum": 2})
        correct(session, prediction)
        decide(session, prediction, Action.APPROVE, caller=ADMIN)
        with pytest.raises(NotAllowed, match="somebody else"):
            decide(session, prediction, Action.APPROVE, caller=ADMIN)
        decide(session, prediction, Action.REJECT, caller=BOB)
        assert decide(session, prediction, Action.APPROVE, caller=ADMIN).final


def test_a_disputed_item_under_a_quorum_needs_one_decision(database: Database):
    with database.reading() as session:
        prediction = predict(session, policy={"quorum": 2})
        correct(session, prediction, caller=APP)
        confirm(session, prediction, OTHER)
        assert decide(session, prediction, Action.APPROVE, caller=ADMIN).final


def test_unprepared_statements_get_their_doorbell_rung_again(database: Database):
    from datetime import UTC, datetime, timedelta

    from backtalk import feedback

    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    with database.reading() as session:
        prediction = predict(session)
        feedback.record_correction(session, caller=APP, prediction_id=str(prediction.id), label="dog")
        session.query(Correction).update({"created_at": long_ago})
        session.query(OutboxEvent).update({"created_at": long_ago, "published_at": long_ago})
        assert doorbells.ring_unprepared(session) == 1
        assert doorbells.ring_unprepared(session) == 0  # it has just rung


def test_an_image_that_straddles_gets_no_sample(database: Database):
    with database.reading() as session:
        model = make.make_model(session)
        base = 0b0
        for bits, side in ((0b111, Side.TRAIN), (0b111000, Side.EVAL)):
            near = make.make_image(session, perceptual_hash=base ^ bits)
            make.make_group(session, model, near, side)
        image = make.make_image(session, perceptual_hash=base)
        prediction = make.make_prediction(session, model, image, label="cat")
        correct(session, prediction)
        decision = decide(session, prediction, Action.APPROVE)
        assert decision.counts
        assert live_sample(session, prediction) is None
        assert session.scalars(select(ReviewItem).where(ReviewItem.closed_at.is_(None))).all() == []
