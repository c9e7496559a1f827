"""What the pages say of live traffic: accuracy from audits, and corrections by day."""

from datetime import UTC, datetime, timedelta

from backtalk import complaints
from backtalk.live_accuracy import find_live_accuracy
from backtalk.states import Action, CorrectionState
from backtalk.system import System
from tests import factories

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def _answer(session, model, *, version: int, said: str, right: str | None, audit: bool = True, **values):  # type: ignore[no-untyped-def]
    prediction = factories.make_prediction(session, model, label=said, version=version, audit=audit)
    item = factories.make_item(session, prediction)
    values = {"counts": right is not None, "action": Action.APPROVE if right else Action.REJECT} | values
    return factories.make_decision(session, model, right or said, item=item, **values)


def test_live_accuracy_counts_audits_that_a_person_answered(system: System) -> None:
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")
        for said, right in (("cat", "cat"), ("cat", "cat"), ("dog", "dog"), ("dog", "cat")):
            _answer(session, model, version=1, said=said, right=right)
        _answer(session, model, version=2, said="cat", right="cat")
        # None of these says anything: no draw, no label, not a person, taken back.
        _answer(session, model, version=1, said="cat", right="dog", audit=False)
        _answer(session, model, version=1, said="cat", right=None)
        _answer(session, model, version=1, said="cat", right="dog", actor="policy")
        gone = _answer(session, model, version=1, said="cat", right="dog")
        factories.make_decision(
            session,
            model,
            item=factories.reload(session, factories.tables.ReviewItem, gone.item_id),
            action=Action.UNDO,
            undoes=gone.id,
            final=False,
            counts=False,
        )
        # The newest answer counts.
        changed = _answer(session, model, version=2, said="cat", right="dog")
        item = factories.reload(session, factories.tables.ReviewItem, changed.item_id)
        factories.make_decision(session, model, "cat", item=item)
        other = factories.make_model(session, "other")
        _answer(session, other, version=1, said="cat", right="dog")
    with system.db.reading() as session:
        found = find_live_accuracy(session, model)
    assert [(one.version, one.right, one.answered) for one in found] == [(2, 2, 2), (1, 3, 4)]
    assert found[1].low < found[1].share == 0.75 < found[1].high


def test_corrections_are_told_by_the_day_of_their_prediction(system: System, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    yesterday = NOON - timedelta(days=1)
    with system.db.transaction() as session:
        model = factories.make_model(session, "cells")

        def predict(at: datetime, *labels: str, state: str = CorrectionState.PENDING) -> None:
            prediction = factories.make_prediction(session, model, created_at=at)
            for n, label in enumerate(labels):
                factories.make_correction(
                    session, prediction, label, reporter=f"r{n}", state=state, created_at=NOON
                )

        predict(NOON - timedelta(days=40), "dog")
        for minute in range(6):
            predict(yesterday + timedelta(minutes=minute))
        predict(yesterday + timedelta(minutes=6), "dog", "dog")  # two reporters, one wrong prediction
        predict(yesterday + timedelta(minutes=7), "dog", state=CorrectionState.RETRACTED)
        predict(NOON, "dog")
        factories.make_prediction(session, factories.make_model(session, "other"), created_at=NOON)
    with system.db.reading() as session:
        days = complaints.list_days(session, model, now=NOON)
        monkeypatch.setattr(complaints, "MOST_A_DAY", 7)
        bounded = complaints.list_days(session, model, now=NOON)
    assert len(days) == complaints.DAYS
    assert [(d.day.day, d.predictions, d.corrected) for d in days[-3:]] == [
        (22, 0, 0),
        (23, 8, 1),
        (24, 1, 1),
    ]
    assert [d.per_thousand for d in days[-3:]] == [None, 125.0, 1000.0]
    assert (bounded[-2].predictions, bounded[-2].corrected) == (7, 1)
