"""Taking decisions back: what is left in the rows, and who is told that something has learned from it."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from backtalk import feedback, leases, review, undoing
from backtalk.callers import Caller
from backtalk.considerations import count_waiting
from backtalk.db import Database
from backtalk.decisions import Submission
from backtalk.errors import CannotUndo, DecisionNotFound, ItemChanged, NotAllowed
from backtalk.states import (
    Action,
    ConfirmationState,
    CorrectionState,
    Origin,
    RunKind,
    RunState,
    Scope,
    Side,
    Split,
    VersionState,
)
from backtalk.tables import (
    AuditEntry,
    Confirmation,
    Correction,
    Decision,
    Image,
    Model,
    OutboxEvent,
    Prediction,
    ReviewItem,
    Sample,
    Snapshot,
)
from tests import factories

ADA = Caller("user:ada", "ada", frozenset({Scope.REVIEW}))
BOB = Caller("user:bob", "bob", frozenset({Scope.REVIEW}))
EVE = Caller("user:eve", "eve", frozenset({Scope.REVIEW, Scope.EXPERT}))
APP = Caller("key:app", "app", frozenset({Scope.FEEDBACK}), key_id="app")


@pytest.fixture
def item_id(database: Database) -> UUID:
    """A reported mistake, cat that is a dog, whose image lies on the train side."""
    with database.transaction() as session:
        model = factories.make_model(session)
        prediction = factories.make_prediction(session, model)
        image = session.get_one(Image, prediction.image_id)
        factories.make_group(session, model, image, Side.TRAIN)
        return factories.make_item(
            session, prediction, factories.make_correction(session, prediction, "dog")
        ).id


def decide(database, item_id, action=Action.APPROVE, label=None, caller=ADA, etag="*", sent=None):  # type: ignore[no-untyped-def]
    sent = sent or uuid4()
    with database.transaction() as session:
        review.decide_item(
            session,
            caller=caller,
            item_id=str(item_id),
            action=action,
            label=label,
            if_match=etag,
            submission=Submission(sent),
        )
    return sent


def undo(database, sent, caller=ADA):  # type: ignore[no-untyped-def]
    with database.transaction() as session:
        return undoing.undo_decision(session, caller=caller, request_id=sent, submission=Submission(uuid4()))


def lease(database, caller):  # type: ignore[no-untyped-def]
    with database.transaction() as session:
        return [v.item for v in leases.lease_items(session, caller=caller, model_name="animals")]


def test_an_undo_opens_the_item_again_and_erases_nothing(database, item_id):
    sent = decide(database, item_id)
    with database.reading() as session:
        made = session.scalars(select(Sample)).one()
        assert count_waiting(session, session.scalars(select(Model)).one(), RunKind.HEAD).total == 1
    undone = undo(database, sent)
    with database.reading() as session:
        first, second = session.scalars(select(Decision).order_by(Decision.id))
        assert (first.action, first.label, first.counts) == (Action.APPROVE, "dog", True)
        assert (second.action, second.undoes, second.actor) == (Action.UNDO, first.id, "user:ada")
        item = session.get_one(ReviewItem, item_id)
        assert (item.closed_at, item.leased_by, item.etag) == (None, "user:ada", 3)
        correction = session.scalars(select(Correction)).one()
        assert (correction.state, correction.decision_id) == (CorrectionState.PENDING, None)
        assert session.get_one(Sample, made.id).retracted_at is not None
        assert count_waiting(session, session.scalars(select(Model)).one(), RunKind.HEAD).total == 0
        events = list(session.scalars(select(OutboxEvent.event).order_by(OutboxEvent.id)))
        assert events == ["StatementApproved", "DecisionUndone"]
        logged = list(session.scalars(select(AuditEntry).order_by(AuditEntry.seq)))
        assert [entry.action for entry in logged] == ["decision.approve", "decision.undo"]
        assert logged[1].detail["undoes"] == first.id
    assert undone.learned == undoing.Learned()


def test_what_was_undone_is_decided_anew_and_counts_once(database, item_id):
    undo(database, decide(database, item_id))
    decide(database, item_id, Action.RELABEL, "cat")
    with database.reading() as session:
        waiting = count_waiting(session, session.scalars(select(Model)).one(), RunKind.HEAD)
        assert waiting.by_label == {"cat": 1}
        live = session.scalars(select(Sample).where(Sample.retracted_at.is_(None))).one()
        assert (live.label, live.origin) == ("cat", Origin.CONFIRMATION)


def test_an_undo_sent_twice_is_taken_down_once(database, item_id):
    sent = decide(database, item_id)
    first, second = undo(database, sent), undo(database, sent)
    assert first.decision.id == second.decision.id
    with database.reading() as session:
        assert factories.count(session, Decision) == 2


def test_a_decision_sent_twice_is_taken_down_once_even_where_another_reviewer_must_agree(database, item_id):
    with database.transaction() as session:
        session.scalars(select(Model)).one().policy = {"quorum": 2}
    sent = decide(database, item_id, etag='"1"')
    decide(database, item_id, etag='"1"', sent=sent)
    with database.reading() as session:
        assert factories.count(session, Decision) == 1


def test_the_sample_that_a_decision_replaced_comes_back(database, item_id):
    with database.transaction() as session:
        image_id = session.scalars(select(Prediction.image_id)).one()
        model = session.scalars(select(Model)).one()
        factories.make_sample(session, model, session.get_one(Image, image_id), label="cat")
    undo(database, decide(database, item_id))
    with database.reading() as session:
        live = session.scalars(select(Sample).where(Sample.retracted_at.is_(None))).one()
        assert (live.label, live.origin, live.split) == ("cat", Origin.BASE, Split.TRAIN)
        assert factories.count(session, Sample) == 3


def test_disputes_and_confirmations_are_as_they_were_before_the_decision(database, item_id):
    with database.transaction() as session:
        prediction = session.scalars(select(Prediction)).one()
        session.scalars(select(Correction)).one().state = CorrectionState.DISPUTED
        factories.make_confirmation(session, prediction, state=ConfirmationState.DISPUTED)
    undo(database, decide(database, item_id))
    with database.reading() as session:
        assert session.scalars(select(Correction.state)).one() == CorrectionState.DISPUTED
        assert session.scalars(select(Confirmation.state)).one() == ConfirmationState.DISPUTED


def test_nobody_undoes_the_decision_of_another(database, item_id):
    sent = decide(database, item_id)
    with pytest.raises(DecisionNotFound):
        undo(database, sent, BOB)


def test_an_answer_that_did_not_count_leaves_nothing_to_undo(database, item_id):
    decide(database, item_id, caller=BOB)
    late = uuid4()
    with pytest.raises(ItemChanged):
        decide(database, item_id, sent=late)
    with pytest.raises(DecisionNotFound, match="nothing to undo"):
        undo(database, late)


def test_an_undo_overrules_no_report_that_has_come_in_since(database, item_id):
    sent = decide(database, item_id)
    with database.transaction() as session:
        prediction_id = str(session.scalars(select(Prediction.id)).one())
        feedback.record_correction(
            session, caller=APP, prediction_id=prediction_id, label="dog", reporter="another"
        )
    with pytest.raises(CannotUndo, match="new report"):
        undo(database, sent)


def test_an_undo_overrules_no_second_reviewer_who_agreed(database, item_id):
    with database.transaction() as session:
        session.scalars(select(Model)).one().policy = {"quorum": 2}
    sent = decide(database, item_id)
    decide(database, item_id, caller=BOB)
    with pytest.raises(CannotUndo, match="Another reviewer has decided"):
        undo(database, sent)


def test_the_first_of_two_reviewers_may_think_again(database, item_id):
    with database.transaction() as session:
        session.scalars(select(Model)).one().policy = {"quorum": 2}
    undo(database, decide(database, item_id))
    decide(database, item_id, Action.RELABEL, "cat")
    decide(database, item_id, caller=BOB)
    with database.reading() as session:
        assert session.get_one(ReviewItem, item_id).closed_at is None  # they disagree


def test_a_skip_can_be_undone(database, item_id):
    undo(database, decide(database, item_id, Action.SKIP))
    with database.reading() as session:
        assert session.get_one(ReviewItem, item_id).skipped_by == []


def test_an_undo_after_the_picture_was_deleted_is_refused(database, item_id):
    sent = decide(database, item_id)
    with database.transaction() as session:
        image = session.scalars(select(Image)).one()
        image.deleted_at = image.created_at
    with pytest.raises(CannotUndo, match="deleted"):
        undo(database, sent)


def learn(session, model, state, version):  # type: ignore[no-untyped-def]
    """A run with every sample in its snapshot, and its version."""
    ids = list(session.scalars(select(Sample.id)))
    session.add(Snapshot(model_id=model.id, digest="d" * 64, sample_ids=ids, stay_right_ids=[], counts={}))
    session.flush()
    run = factories.make_run(session, model, state=state, snapshot_digest="d" * 64, version=version)
    if state not in (RunState.TRAINING, RunState.QUEUED):
        factories.make_version(session, model, version, VersionState.RETIRED, run_id=run.id)


def test_who_undoes_hears_which_versions_have_learned_from_it(database, item_id):
    sent = decide(database, item_id)
    with database.transaction() as session:
        model = session.scalars(select(Model)).one()
        learn(session, model, RunState.PROMOTED, 2)
        factories.make_version(session, model, 3, VersionState.CANDIDATE, parent=2)
        model.live_version = 3  # made from version 2
    learned = undo(database, sent).learned
    assert learned == undoing.Learned(versions=(2,), live=True)


def test_who_undoes_hears_that_a_run_is_learning_from_it_just_now(database, item_id):
    sent = decide(database, item_id)
    with database.transaction() as session:
        learn(session, session.scalars(select(Model)).one(), RunState.TRAINING, 2)
    assert undo(database, sent).learned == undoing.Learned(training=True)


def test_a_flagged_item_goes_to_experts_alone_and_an_expert_settles_it(database, item_id):
    with database.transaction() as session:
        session.scalars(select(Model)).one().policy = {"quorum": 2}
    decide(database, item_id, Action.FLAG)
    assert lease(database, ADA) == lease(database, BOB) == []
    with pytest.raises(NotAllowed, match="expert"):
        decide(database, item_id, caller=BOB)
    assert lease(database, EVE) == [str(item_id)]
    decide(database, item_id, caller=EVE)
    with database.reading() as session:
        assert session.get_one(ReviewItem, item_id).closed_at is not None


def test_a_flag_can_be_undone_by_who_set_it(database, item_id):
    undo(database, decide(database, item_id, Action.FLAG))
    assert lease(database, ADA) == [str(item_id)]


def test_an_item_that_somebody_else_looks_at_is_not_taken_from_them_by_an_undo(database, item_id):
    sent = decide(database, item_id, Action.SKIP)
    assert lease(database, BOB) == [str(item_id)]
    with pytest.raises(CannotUndo, match="looking at it"):
        undo(database, sent)
