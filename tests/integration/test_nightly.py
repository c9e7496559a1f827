"""A night's run comes once for each local date: late after an outage, not where nothing is new."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backtalk.callers import CLI
from backtalk.states import RunState
from backtalk.tables import Model, OutboxEvent, Run, TriggerCheck
from backtalk.triggers import announce_nightly, consider_model, request_run
from tests import factories

#: 02:00 UTC is this model's night.
NIGHT = datetime(2026, 3, 10, 2, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def make_model(session: Session, *, created_at: datetime = NIGHT - 9 * DAY, **policy) -> Model:
    policy = {"nightly": "02:00", "cooldown_s": 0} | policy
    return factories.make_model(session, policy=policy, created_at=created_at)


def approve(session: Session, model: Model, number: int = 1, at: datetime = NIGHT - HOUR) -> int:
    return [factories.make_decision(session, model, created_at=at) for _ in range(number)][-1].id


def end(session: Session, check: TriggerCheck, state: RunState, cut: int = 0) -> Run:
    run = session.get_one(Run, check.run_id)
    run.state, run.decision_cut, run.ended_at = state, cut, check.at
    session.flush()
    return run


@pytest.fixture
def session(database):
    with database.transaction() as session:
        yield session


# --- the night's run -------------------------------------------------------------------------------
def test_the_night_starts_a_run_far_below_the_threshold(session):
    model = make_model(session)
    assert consider_model(session, model.id, now=NIGHT - 2 * HOUR).counts["night"] == "2026-03-09"
    approve(session, model)
    assert consider_model(session, model.id, now=NIGHT - timedelta(seconds=1)).reason == "too-few"
    check = consider_model(session, model.id, now=NIGHT)
    assert (check.fired, check.counts["trigger_key"]) == (True, "nightly:2026-03-10")


def test_a_missed_night_runs_late_and_once(session):
    model = make_model(session)
    cut = approve(session, model)
    late = NIGHT + 3 * DAY + 5 * HOUR  # everything was off for three nights
    check = consider_model(session, model.id, now=late)
    assert check.counts["trigger_key"] == "nightly:2026-03-13"
    end(session, check, RunState.PROMOTED, cut)
    approve(session, model, at=late)
    assert consider_model(session, model.id, now=late + HOUR).reason == "too-few"
    assert factories.count(session, Run) == 1


def test_a_night_with_nothing_new_is_skipped_and_not_caught_up_on_by_day(session):
    model = make_model(session)
    check = consider_model(session, model.id, now=NIGHT)
    assert check.reason == "nothing-new"
    assert check.counts["sentence"].endswith("so the night of 2026-03-10 is skipped.")
    approve(session, model, at=NIGHT + 6 * HOUR)
    assert consider_model(session, model.id, now=NIGHT + 7 * HOUR).reason == "too-few"
    assert consider_model(session, model.id, now=NIGHT + DAY).fired


def test_a_night_may_want_more_than_one_new_statement(session):
    model = make_model(session, nightly_min_new=5)
    approve(session, model, 4)
    check = consider_model(session, model.id, now=NIGHT)
    assert (check.reason, check.counts["night_settled"]) == ("too-few", "2026-03-10")


def test_a_night_may_want_nothing_new_at_all(session):
    model = make_model(session, nightly_min_new=0)
    assert consider_model(session, model.id, now=NIGHT).fired


def test_nights_before_the_model_was_made_are_none_of_its(session):
    model = make_model(session, created_at=NIGHT + HOUR)
    approve(session, model, at=NIGHT + 2 * HOUR)
    assert consider_model(session, model.id, now=NIGHT + 3 * HOUR).reason == "too-few"
    assert announce_nightly(session, now=NIGHT + 3 * HOUR) == []
    assert announce_nightly(session, now=NIGHT + DAY) == [model.id]


def test_a_night_and_the_threshold_together_make_one_run(session):
    model = make_model(session, min_approved=3)
    cut = approve(session, model, 3)
    check = consider_model(session, model.id, now=NIGHT)
    assert check.counts["trigger_key"] == "nightly:2026-03-10"
    end(session, check, RunState.REJECTED, cut)
    assert consider_model(session, model.id, now=NIGHT + HOUR).reason == "nothing-new"


def test_a_skipped_night_does_not_stop_the_threshold(session):
    model = make_model(session, min_approved=3, nightly_min_new=10)
    newest = approve(session, model, 3)
    check = consider_model(session, model.id, now=NIGHT)
    assert check.counts["trigger_key"] == f"approved:{newest}"
    assert check.counts["night_settled"] == "2026-03-10"


def test_a_night_beside_an_active_run_comes_when_it_ends(session):
    model = make_model(session)
    active = request_run(session, model=model, kind="head", caller=CLI, now=NIGHT - HOUR)
    approve(session, model)
    assert consider_model(session, model.id, now=NIGHT).reason == "active-run"
    active.state, active.ended_at = RunState.FAILED, NIGHT + HOUR
    session.flush()
    assert consider_model(session, model.id, now=NIGHT + HOUR).counts["trigger_key"] == "nightly:2026-03-10"


def test_a_night_under_hold_comes_once_when_the_hold_is_lifted(session):
    model = make_model(session)
    model.hold = True
    cut = approve(session, model)
    for day in range(3):
        assert consider_model(session, model.id, now=NIGHT + day * DAY).reason == "hold"
    model.hold = False
    session.flush()
    check = consider_model(session, model.id, now=NIGHT + 2 * DAY + HOUR)
    assert check.counts["trigger_key"] == "nightly:2026-03-12"
    end(session, check, RunState.PROMOTED, cut)
    assert consider_model(session, model.id, now=NIGHT + 2 * DAY + 2 * HOUR).reason == "nothing-new"


def test_a_night_that_fails_is_tried_three_times_and_the_next_night_again(session):
    model = make_model(session)
    approve(session, model)
    for retry in range(3):
        run = end(session, consider_model(session, model.id, now=NIGHT + retry * HOUR), RunState.FAILED)
        assert (run.trigger_key, run.retry) == ("nightly:2026-03-10", retry)
    assert consider_model(session, model.id, now=NIGHT + 4 * HOUR).reason == "gave-up"
    run = end(session, consider_model(session, model.id, now=NIGHT + DAY), RunState.FAILED)
    assert (run.trigger_key, run.retry) == ("nightly:2026-03-11", 0)


def test_a_night_that_gave_up_tries_again_after_a_new_statement(session):
    model = make_model(session)
    approve(session, model)
    for _ in range(3):
        end(session, consider_model(session, model.id, now=NIGHT), RunState.FAILED)
    approve(session, model, at=NIGHT + HOUR)
    run = session.get_one(Run, consider_model(session, model.id, now=NIGHT + HOUR).run_id)
    assert (run.trigger_key, run.retry) == ("nightly:2026-03-10", 3)


def test_a_cancelled_night_is_not_repeated(session):
    model = make_model(session)
    approve(session, model)
    end(session, consider_model(session, model.id, now=NIGHT), RunState.CANCELLED)
    assert consider_model(session, model.id, now=NIGHT + HOUR).reason == "cancelled"
    assert consider_model(session, model.id, now=NIGHT + DAY).fired


def test_the_repeated_hour_of_autumn_brings_one_run(session):
    model = make_model(session, nightly="02:30", timezone="Europe/Berlin")
    cut = approve(session, model)
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    end(session, consider_model(session, model.id, now=first), RunState.PROMOTED, cut)
    approve(session, model, at=first)
    assert not consider_model(session, model.id, now=first + HOUR).fired  # 02:30 for the second time
    assert announce_nightly(session, now=first + HOUR) == []
    assert consider_model(session, model.id, now=first + DAY + HOUR).fired


# --- the tick --------------------------------------------------------------------------------------
def test_a_tick_announces_a_night_until_somebody_has_considered_it(session):
    model = make_model(session)
    assert announce_nightly(session, now=NIGHT) == [model.id]
    assert announce_nightly(session, now=NIGHT) == []  # it waits for the relay
    session.execute(update(OutboxEvent).values(published_at=func.now()))
    assert announce_nightly(session, now=NIGHT) == [model.id]  # rung for, and lost
    consider_model(session, model.id, now=NIGHT)
    session.execute(update(OutboxEvent).values(published_at=func.now()))
    assert announce_nightly(session, now=NIGHT + 20 * HOUR) == []
    assert announce_nightly(session, now=NIGHT + DAY) == [model.id]
    assert set(session.scalars(select(OutboxEvent.event))) == {"NightlyCame"}


def test_a_tick_after_an_outage_announces_the_newest_night_alone(session):
    model = make_model(session)
    consider_model(session, model.id, now=NIGHT)
    assert announce_nightly(session, now=NIGHT + 5 * DAY + HOUR) == [model.id]
    assert consider_model(session, model.id, now=NIGHT + 5 * DAY + HOUR).counts["night"] == "2026-03-15"
    assert announce_nightly(session, now=NIGHT + 5 * DAY + HOUR) == []


def test_each_model_has_its_own_night(session):
    early = make_model(session)
    late = factories.make_model(
        session,
        "late",
        policy={"nightly": "02:00", "timezone": "America/New_York"},
        created_at=NIGHT - 9 * DAY,
    )
    never = factories.make_model(session, "never", policy={"nightly": None}, created_at=NIGHT - 9 * DAY)
    for model in (early, late, never):
        consider_model(session, model.id, now=NIGHT - HOUR)
    assert announce_nightly(session, now=NIGHT) == [early.id]
    session.execute(update(OutboxEvent).values(published_at=func.now()))
    consider_model(session, early.id, now=NIGHT)
    # In New York the clocks had gone forward on 8 March: 02:00 there is 06:00 in UTC.
    assert announce_nightly(session, now=NIGHT + 4 * HOUR) == [late.id]


def test_a_run_that_a_person_asked_for_does_not_pass_for_a_night(session):
    model = make_model(session)
    consider_model(session, model.id, now=NIGHT - DAY)
    request_run(session, model=model, kind="head", caller=CLI, now=NIGHT - timedelta(minutes=1))
    assert announce_nightly(session, now=NIGHT) == [model.id]
