"""Suspected training labels: weighed out of fold, offered, settled by a person; and gold items."""

import json
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import select

from backtalk import gold, leases, review, reviewers, suspects, undoing
from backtalk.callers import Caller
from backtalk.db import new_id
from backtalk.decisions import Submission
from backtalk.embeddings import save_embeddings
from backtalk.errors import ItemChanged
from backtalk.states import Action, Queue, RunState, Scope, Side, Split
from backtalk.tables import AuditEntry, Decision, LabelCheck, Model, Prediction, ReviewItem, Sample
from tests import factories as make
from tests.served import make_served_model

ADA = Caller("user:ada", "ada", frozenset({Scope.REVIEW}))
BOB = Caller("user:bob", "bob", frozenset({Scope.REVIEW}))
LABELS = ("cat", "dog", "owl")
WRONG = (7, 20, 33)  # places of the training images whose label is another than their kind
COUNT = 45


@pytest.fixture
def taught(system, tiny_folder):
    """Three kinds of embeddings; some train samples, and one of the holdout, have another kind's label."""
    model = make_served_model(system, tiny_folder, policy={})
    rng = np.random.default_rng(5)
    with system.db.transaction() as session:
        backbone = session.scalars(select(make.tables.Backbone)).one()
        kinds = rng.normal(0, 3, (len(LABELS), backbone.width))
        for split, side, n in ((Split.TRAIN, Side.TRAIN, 2 * COUNT), (Split.HOLDOUT, Side.EVAL, COUNT)):
            images = [make.make_image(session, store_key="kept") for _ in range(n)]
            for place, image in enumerate(images):
                make.make_group(session, model, image, side)
                wrong = place in WRONG if split is Split.TRAIN else place == 0
                label = LABELS[(place + wrong) % len(LABELS)]
                make.make_sample(session, model, image, label=label, split=split)
            drawn = np.array([kinds[i % len(LABELS)] for i in range(n)]) + rng.normal(
                0, 0.5, (n, backbone.width)
            )
            save_embeddings(session, backbone.digest, [i.id for i in images], drawn.astype(np.float16))
    return model


def list_open(session, caller=ADA):
    return leases.lease_items(session, caller=caller, model_name="animals", queue=Queue.SUSPECTED)


def decide(session, view, action, label=None, caller=ADA, submission=None):
    return review.decide_item(
        session,
        caller=caller,
        item_id=view.item,
        action=action,
        label=label,
        if_match=view.etag,
        submission=submission,
    )


def test_wrong_training_labels_are_found_offered_and_settled(system, taught):
    with system.db.reading() as session:
        assert suspects.list_due(session) == [taught.id]
    assert suspects.check_labels(system, taught.id) == len(WRONG)
    with system.db.transaction() as session:
        assert suspects.list_due(session) == []
        train = session.scalars(select(Sample).where(Sample.split == "train").order_by(Sample.id)).all()
        wrong = {train[place].id: LABELS[place % len(LABELS)] for place in WRONG}
        views = list_open(session)
        offered = [session.get_one(ReviewItem, view.item) for view in views]
        assert {item.sample_id: item.predicted for item in offered} == wrong
        assert all(
            view.reported == session.get_one(Sample, i.sample_id).label
            for view, i in zip(views, offered, strict=True)
        )
        assert all(view.suspicion > 0.9 and "other samples alone" in view.mark for view in views)
        assert leases.lease_items(session, caller=BOB, model_name="animals") == []  # only when asked for
        _learn(session, taught, [train[place].id for place in WRONG])

        relabelled, rejected, kept = views
        sent = Submission(new_id())
        made = decide(session, relabelled, Action.RELABEL, relabelled.predicted, submission=sent)
        assert (made.counts, made.before["taught"]) == (True, [2])
        sample = session.scalars(select(Sample).where(Sample.decision_id == made.id)).one()
        assert (sample.label, sample.split, sample.origin) == (relabelled.predicted, "train", "base")
        assert not decide(session, rejected, Action.REJECT).counts
        assert not decide(session, kept, Action.APPROVE).counts  # nothing that is learned from has changed
        live = select(Sample).where(Sample.split == "train", Sample.retracted_at.is_(None))
        assert len(session.scalars(live).all()) == 2 * COUNT - 1

    with system.db.transaction() as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "decision.relabel")).all()
        assert [entry.detail["taught"] for entry in entries] == [[2]]
        undone = undoing.undo_decision(session, caller=ADA, request_id=sent.id)
        session.flush()
        back = session.scalars(
            select(Sample).where(Sample.image_id == sample.image_id, Sample.retracted_at.is_(None))
        ).one()
        assert (back.label, undone.item.closed_at) == (relabelled.reported, None)
        assert [view.item for view in list_open(session)] == [relabelled.item]
    assert (
        suspects.check_labels(system, taught.id) == 1
    )  # still open; what a person let stand is not asked anew
    with system.db.transaction() as session:
        (again,) = list_open(session)
        session.query(Sample).filter_by(image_id=sample.image_id).update({"retracted_at": sample.created_at})
        with pytest.raises(ItemChanged, match="replaced or withdrawn"):
            decide(session, again, Action.APPROVE)
        session.query(ReviewItem).update({"lease_until": None})
        assert list_open(session, BOB) == []


def _learn(session, model, sample_ids):
    """Version 2 learned from these."""
    digest = "d" * 64
    make.add(
        session,
        make.tables.Snapshot(
            model_id=model.id, digest=digest, sample_ids=sample_ids, stay_right_ids=[], counts={}
        ),
    )
    make.make_run(session, model, state=RunState.INCONCLUSIVE, snapshot_digest=digest, version=2)


def test_where_the_weighing_process_fails_it_is_said_and_not_tried_again_at_once(system, taught, monkeypatch):
    monkeypatch.setattr(suspects.sys, "executable", "/bin/false")
    assert suspects.check_labels(system, taught.id) == 0
    with system.db.reading() as session:
        assert "ended with status 1" in session.scalars(select(LabelCheck.reason)).one()
        assert suspects.list_due(session) == []


def test_few_samples_are_not_weighed_and_it_is_said_why(system, tiny_folder):
    model = make_served_model(system, tiny_folder)
    assert suspects.check_labels(system, model.id) == 0
    with system.db.reading() as session:
        assert "It takes 50 training images" in session.scalars(select(LabelCheck.reason)).one()


def test_gold_items_look_like_audits_measure_who_answers_and_teach_nothing(system, taught):
    with system.db.transaction() as session:
        model = session.get_one(Model, taught.id)
        model.policy = {"gold_share": 0.5}
        assert gold.stock_gold(session, system, model) >= 10
        for _ in range(12):
            make.make_item(session, make.make_prediction(session, model, label="cat", audit=True))
        for caller, limit in ((ADA, 40), (BOB, 40)):
            leased = leases.lease_items(session, caller=caller, model_name="animals", limit=limit)
            session.flush()
            times = [UUID(view.item).int >> 80 for view in leased]
            assert times == sorted(times)  # each stands where an audit of its time would
            golds = {
                str(i.id): i
                for i in session.scalars(select(ReviewItem).where(ReviewItem.kind == "gold"))
                if i.leased_by == caller.actor
            }
            shown = [view for view in leased if view.item in golds]
            assert {(view.kind, view.queue, view.mark, view.reported) for view in shown} <= {
                ("audit", "audits", None, None)
            }
            if caller is BOB:
                assert not shown  # ada holds the audits that they would stand beside
                continue
            assert 2 <= len(shown) < 12
            before = session.scalars(select(Sample.id).order_by(Sample.id)).all()
            for place, view in enumerate(shown):
                known = session.get_one(Sample, golds[view.item].sample_id).label
                other = next(label for label in LABELS if label not in (known, view.predicted))
                label = known if place else other
                action = Action.APPROVE if label == view.predicted else Action.RELABEL
                made = decide(session, view, action, None if action is Action.APPROVE else label)
                assert (made.final, made.counts, gold.seems_final(session, made)) == (False, False, True)
            assert session.scalars(select(Sample.id).order_by(Sample.id)).all() == before
            again = leases.lease_items(session, caller=ADA, model_name="animals", limit=40)
            assert not {view.item for view in again} & set(golds)
            asked = len(shown)
        (record,) = reviewers.measure_reviewers(session, model)
        assert (record.actor, record.rulings, record.gold, record.gold_right) == (
            "user:ada",
            0,
            asked,
            asked - 1,
        )
        assert record.gold_low < record.gold_share < record.gold_high
        # Nobody answered for live accuracy or triggers.
        assert session.scalars(select(Decision).where(Decision.final | Decision.counts)).all() == []
        assert session.scalars(select(Prediction).where(Prediction.key_id.is_(None))).all()
        json.dumps([vars(record)])


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_no_gold_item_is_made_that_nobody_is_given(system, taught, monkeypatch, limit):
    monkeypatch.setattr(gold, "draw", lambda *_: 0.0)  # one beside each
    with system.db.transaction() as session:
        model = session.get_one(Model, taught.id)
        model.policy = {"gold_share": 0.1}
        gold.stock_gold(session, system, model)
        for _ in range(8):
            make.make_item(session, make.make_prediction(session, model, label="cat", audit=True))
        leased = leases.lease_items(session, caller=ADA, model_name="animals", limit=limit)
        made = session.scalars(select(ReviewItem.id).where(ReviewItem.kind == "gold")).all()
        assert len(leased) == limit
        assert {str(item_id) for item_id in made} <= {view.item for view in leased}
        assert len(made) >= limit // 2
