"""What the pages say of live traffic: corrections by day."""

from datetime import UTC, datetime, timedelta

from backtalk import complaints
from backtalk.states import CorrectionState
from backtalk.system import System
from backtalk.tables import FeedbackDay
from tests import factories

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


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


def test_past_days_are_kept_and_the_last_two_counted_at_each_look(system: System) -> None:
    week_ago = NOON - timedelta(days=7)
    with system.db.transaction() as session:
        model = factories.make_model(session)
        old, fresh = (
            factories.make_prediction(session, model, created_at=at, key_id="app") for at in (week_ago, NOON)
        )
        complaints.keep_days(session, model, now=NOON)
        for prediction in (old, fresh):
            factories.make_correction(session, prediction, "dog", created_at=NOON)
        before = complaints.list_days(session, model, now=NOON)
        complaints.keep_days(session, model, now=NOON)
        after = complaints.list_days(session, model, now=NOON)
    assert (before[-8].predictions, before[-8].corrected) == (1, 0)  # as it was when it was counted
    assert (after[-8].predictions, after[-8].corrected) == (1, 1)
    assert before[-1].corrected == after[-1].corrected == 1


def test_days_that_are_shown_no_more_are_forgotten(system: System) -> None:
    with system.db.transaction() as session:
        model = factories.make_model(session)
        complaints.keep_days(session, model, now=NOON)
        complaints.keep_days(session, model, now=NOON + timedelta(days=complaints.DAYS))
        assert factories.count(session, FeedbackDay) == complaints.DAYS - complaints.FRESH_DAYS
