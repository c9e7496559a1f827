"""The queues: what stands in each, what is drawn into one, and how they are counted."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from backtalk import leases, queues, review
from backtalk.callers import Caller
from backtalk.states import Action, Origin, Queue, Scope, Side
from backtalk.tables import ImageGroup, Prediction, ReviewItem, Sample
from tests import factories as make
from tests.integration.test_feedback import OTHER, confirm, correct, predict

ADA = Caller("user:ada", "ada", frozenset({Scope.REVIEW}))
BOB = Caller("user:bob", "bob", frozenset({Scope.REVIEW}))


def ask(session, queue=None, caller=ADA, limit=10):
    session.flush()
    views = leases.lease_items(session, caller=caller, model_name="animals", queue=queue, limit=limit)
    return [view.prediction for view in views]


def answer(session, prediction_id, action=Action.APPROVE, label=None, caller=ADA):
    item = session.scalars(select(ReviewItem).where(ReviewItem.prediction_id == prediction_id)).one()
    return review.decide_item(
        session, caller=caller, item_id=str(item.id), action=action, label=label, if_match="*"
    )


def measure(session, queue, caller=ADA):
    model = session.scalars(select(make.tables.Model)).one()
    return next(s for s in queues.measure_queues(session, model, caller) if s.queue == queue)


def add_unsure(session, model, first=0.5, side=Side.TRAIN, **values):
    """A prediction of recent traffic with these highest scores; nobody has spoken of it."""
    image = make.make_image(session, store_key="kept")
    if side is not None:
        make.make_group(session, model, image, side)
    return make.make_prediction(session, model, image, scores=[first, 1 - first], **values)


def test_each_item_stands_in_one_queue_and_a_dispute_moves_it(database):
    with database.reading() as session:
        reported, both, drawn = predict(session), predict(session), predict(session, Side.EVAL, audit=True)
        correct(session, reported)
        correct(session, both)
        review.prepare_prediction(session, str(drawn.id))
        assert ask(session, Queue.CORRECTIONS, BOB) == [str(reported.id), str(both.id)]
        confirm(session, both, OTHER)
        session.expire_all()
        for queue, prediction in (
            (Queue.CORRECTIONS, reported),
            (Queue.DISPUTED, both),
            (Queue.AUDITS, drawn),
        ):
            session.query(ReviewItem).update({"leased_by": None, "lease_until": None})
            assert ask(session, queue) == [str(prediction.id)], queue
            assert (measure(session, queue).size, measure(session, queue).more) == (1, False)
        session.query(ReviewItem).update({"leased_by": None, "lease_until": None})
        assert ask(session) == [str(p.id) for p in (reported, both, drawn)]  # all that is due


def test_the_uncertain_are_recent_predictions_that_nobody_spoke_of_the_closest_first(database):
    with database.reading() as session:
        model = make.make_model(session)
        wide, close, wider = (add_unsure(session, model, first) for first in (0.7, 0.51, 0.9))
        add_unsure(session, model, 0.5, side=Side.EVAL)  # would bias what judges
        add_unsure(session, model, 0.5, audit=True)
        add_unsure(session, model, 0.5, key_id=None)  # nobody asked for it
        add_unsure(session, model, 0.5, created_at=datetime.now(UTC) - timedelta(days=8))
        add_unsure(session, model, 0.5, version=7)
        confirm(session, add_unsure(session, model, 0.5))
        correct(session, add_unsure(session, model, 0.5))
        make.make_sample(
            session, model, session.get_one(make.tables.Image, add_unsure(session, model).image_id)
        )
        assert measure(session, Queue.UNCERTAIN).size == 0
        assert str(close.id) not in ask(session)  # only when asked for
        found = ask(session, Queue.UNCERTAIN, limit=2)
        assert found == [str(wide.id), str(close.id)]  # the closest two; of these the oldest first
        session.expire_all()
        assert set(ask(session, Queue.UNCERTAIN, BOB)) == {str(wider.id)}
        assert measure(session, Queue.UNCERTAIN).size == 3


def test_an_answer_to_an_uncertain_one_teaches_and_judges_nothing(database):
    with database.reading() as session:
        model = make.make_model(session)
        placed = [add_unsure(session, model, 0.5, side=None) for _ in range(24)]
        right, *others = ask(session, Queue.UNCERTAIN, limit=24)
        assert len(others) < 23  # those whose group was drawn to the eval side are not offered
        assert answer(session, right).counts
        for other in others[:-1]:
            answer(session, other, Action.RELABEL, "dog")
        answer(session, others[-1], Action.REJECT)
        samples = session.scalars(select(Sample)).all()
        assert len(samples) == len(others)
        assert {s.origin for s in samples} == {Origin.UNCERTAIN}
        assert {s.split for s in samples} <= {"train", "validation"}
        assert ask(session, Queue.UNCERTAIN, BOB) == []  # rejected: not drawn again
        assert measure(session, Queue.UNCERTAIN).decided_hour == len(others) + 1
        sides = session.scalars(select(ImageGroup.side)).all()
        assert len(sides) == len(placed)
        assert "eval" in sides


def test_a_prediction_of_an_earlier_version_leaves_the_uncertain_when_they_are_asked_for(database):
    with database.reading() as session:
        model = make.make_model(session)
        old = add_unsure(session, model)
        assert ask(session, Queue.UNCERTAIN) == [str(old.id)]
        session.query(ReviewItem).update({"leased_by": None, "lease_until": None})
        make.make_version(session, model, 2)
        model.live_version = 2
        assert ask(session, Queue.UNCERTAIN) == []
        assert session.scalars(select(ReviewItem.closed_at)).one() is not None


def test_a_report_about_an_uncertain_prediction_makes_it_a_correction(database):
    with database.reading() as session:
        model = make.make_model(session)
        prediction = add_unsure(session, model)
        ask(session, Queue.UNCERTAIN)
        before = session.scalars(select(ReviewItem.etag)).one()
        correct(session, prediction)
        session.expire_all()
        item = session.scalars(select(ReviewItem)).one()
        assert (item.kind, item.queue, item.etag) == ("correction", "corrections", before + 1)
        assert session.get_one(Prediction, prediction.id).audit is False


def test_the_api_leases_from_one_queue_and_counts_them(api):
    with api.system.db.transaction() as session:
        model = make.make_model(session)
        make.make_item(session, make.make_prediction(session, model, audit=True))
        correction = make.make_prediction(session, model)
        make.make_item(session, correction, make.make_correction(session, correction, "dog"))
    reviewer = api.as_key("review")
    leased = reviewer.get("/v1/models/animals/review?queue=audits").get_json()["items"]
    assert [(item["kind"], item["queue"]) for item in leased] == [("audit", "audits")]
    for nonsense in ("gold", "x"):
        assert reviewer.get(f"/v1/models/animals/review?queue={nonsense}").status_code == 422
    counted = reviewer.get("/v1/models/animals/queues").get_json()["items"]
    assert [(one["queue"], one["size"]) for one in counted] == [
        ("corrections", 1),
        ("disputed", 0),
        ("audits", 1),
        ("uncertain", 0),
        ("suspected", 0),
    ]
    assert counted[0]["oldest_at"]
    etag = {"If-Match": leased[0]["etag"]}
    path = f"/v1/review/{leased[0]['item']}/decisions"
    assert reviewer.post(path, json={"action": "approve"}, headers=etag).status_code == 200
    late = api.as_key("review", name="other").post(path, json={"action": "reject"}, headers=etag)
    assert late.status_code == 412
    problem = late.get_json()
    assert (problem["decided_as"], problem["own"]) == ("cat", False)
    assert 0 <= problem["seconds_ago"] < 60
    assert "decided_by" not in problem
