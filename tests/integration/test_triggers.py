"""When a run begins and why not: every reason, and blocked runs that come later."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from backtalk.callers import CLI
from backtalk.db import Database, finish
from backtalk.errors import ModelNotFound, RunActive
from backtalk.states import VERDICT_RUN_STATES, RunKind, RunState
from backtalk.tables import AuditEntry, Model, OutboxEvent, Run, TriggerCheck
from backtalk.triggers import consider_model, emit_due, request_run
from tests import factories

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
#: No nights, so that a test sees one trigger at a time.
POLICY = {"nightly": None, "min_approved": 3}


def make_model(session: Session, **policy) -> Model:
    return factories.make_model(session, policy=POLICY | policy, created_at=NOON - timedelta(days=3))


def approve(session: Session, model: Model, number: int, *, ago_s: float = 600, label: str = "cat") -> int:
    """So many decided statements, made `ago_s` before noon; the last one's id."""
    at = NOON - timedelta(seconds=ago_s)
    return [factories.make_decision(session, model, label, created_at=at) for _ in range(number)][-1].id


def consider(session: Session, model: Model, after_s: float = 0) -> TriggerCheck:
    return consider_model(session, model.id, now=NOON + timedelta(seconds=after_s))


def end(session: Session, check: TriggerCheck, state: RunState, cut: int = 0, after_s: float = 0) -> Run:
    run = session.get_one(Run, check.run_id)
    run.state, run.decision_cut, run.ended_at = state, cut, NOON + timedelta(seconds=after_s)
    session.flush()
    return run


def list_events(session: Session) -> list[str]:
    return list(session.scalars(select(OutboxEvent.event).order_by(OutboxEvent.id)))


@pytest.fixture
def session(database: Database):
    with database.transaction() as session:
        yield session


# --- enough statements -----------------------------------------------------------------------------
def test_the_threshold_starts_a_run(session):
    model = make_model(session)
    newest = approve(session, model, 3)
    check = consider(session, model)
    assert (check.fired, check.reason, check.kind) == (True, "fired", "head")
    run = session.get_one(Run, check.run_id)
    assert (run.trigger_key, run.retry) == (f"approved:{newest}", 0)
    assert (run.state, run.requested_by) == (RunState.QUEUED, "policy")
    event = session.scalars(select(OutboxEvent)).one()
    assert event.event == "RunRequested"
    assert event.payload == {"model_id": model.id, "run_id": str(run.id), "kind": "head"}


def test_below_the_threshold_the_reason_is_written_down(session):
    model = make_model(session)
    assert consider(session, model).reason == "nothing-new"
    approve(session, model, 2)
    check = consider(session, model)
    assert (check.fired, check.reason, check.run_id) == (False, "too-few", None)
    assert check.counts["sentence"] == "2 of 3 decided statements."
    assert (check.counts["new"], check.counts["needed"]) == (2, 3)
    assert check.policy["min_approved"] == 3
    assert factories.count(session, TriggerCheck) == 2
    assert list_events(session) == []


def test_only_decisions_that_count_are_counted(session):
    model = make_model(session)
    approve(session, model, 2)
    factories.make_decision(session, model, "cat", counts=False, created_at=NOON - timedelta(hours=1))
    factories.make_decision(session, factories.make_model(session, "others"), "cat")
    assert consider(session, model).counts["new"] == 2


def test_each_label_may_have_to_come_up(session):
    model = make_model(session, min_per_class=2)
    approve(session, model, 9, label="cat")
    approve(session, model, 1, label="dog")
    check = consider(session, model)
    assert check.reason == "too-few-per-class"
    assert check.counts["sentence"] == "10 decided statements, but 1 of 2 for 'dog'."
    approve(session, model, 1, label="dog")
    assert consider(session, model).fired


@pytest.mark.parametrize("state", VERDICT_RUN_STATES)
def test_a_verdict_consumes_what_its_snapshot_had_and_no_more(session, state):
    model = make_model(session, cooldown_s=0)
    cut = approve(session, model, 3)
    first = consider(session, model)
    approve(session, model, 2)
    end(session, first, state, cut)
    assert consider(session, model, 1).counts["new"] == 2
    approve(session, model, 1)
    assert consider(session, model, 1).fired


def test_failed_and_superseded_runs_consume_nothing_and_are_tried_again(session):
    model = make_model(session, cooldown_s=0)
    newest = approve(session, model, 3)
    for retry, state in enumerate([RunState.FAILED, RunState.SUPERSEDED, RunState.FAILED]):
        run = end(session, consider(session, model, retry), state, newest, retry)
        assert (run.trigger_key, run.retry) == (f"approved:{newest}", retry)
    check = consider(session, model, 9)
    assert check.fired
    assert check.counts["sentence"].endswith("try 4.")


def test_after_three_failed_runs_it_gives_up_until_a_new_statement_is_approved(session):
    model = make_model(session, cooldown_s=0)
    approve(session, model, 3)
    for _ in range(3):
        end(session, consider(session, model), RunState.FAILED)
    check = consider(session, model, 1)
    assert (check.reason, check.fired, model.consider_at) == ("gave-up", False, None)
    newest = approve(session, model, 1)
    run = session.get_one(Run, consider(session, model, 2).run_id)
    assert (run.trigger_key, run.retry) == (f"approved:{newest}", 0)


def test_a_cancelled_run_is_not_repeated_for_the_same_statements(session):
    model = make_model(session, cooldown_s=0)
    approve(session, model, 3)
    end(session, consider(session, model), RunState.CANCELLED)
    assert consider(session, model, 1).reason == "cancelled"
    approve(session, model, 1)
    assert consider(session, model, 2).fired


# --- blocked, and when it comes --------------------------------------------------------------------
def test_a_statement_just_approved_waits_for_the_next_one(session):
    model = make_model(session, debounce_s=2)
    approve(session, model, 3, ago_s=1)
    check = consider(session, model)
    assert (check.reason, model.consider_at) == ("debounce", NOON + timedelta(seconds=1))
    assert consider(session, model, 1).fired


def test_somebody_who_never_pauses_does_not_hold_a_run_back_for_ever(session):
    model = make_model(session, debounce_s=2)
    for second in range(25, 0, -1):
        approve(session, model, 1, ago_s=second)
    assert consider(session, model, -3.5).reason == "debounce"  # 19.5 s after the third
    assert consider(session, model, -3).fired


def test_a_run_in_the_cooldown_comes_when_it_ends(session):
    model = make_model(session, cooldown_s=60)
    cut = approve(session, model, 3)
    end(session, consider(session, model), RunState.REJECTED, cut)
    approve(session, model, 3)
    check = consider(session, model, 10)
    assert (check.reason, model.consider_at) == ("cooldown", NOON + timedelta(seconds=60))
    assert emit_due(session, now=NOON + timedelta(seconds=59)) == []
    assert emit_due(session, now=NOON + timedelta(seconds=60)) == [model.id]
    assert consider(session, model, 60).fired


def test_beside_an_active_run_it_waits_for_the_end(session):
    model = make_model(session, cooldown_s=0)
    cut = approve(session, model, 3)
    first = consider(session, model)
    assert model.consider_at == NOON + timedelta(seconds=60)
    approve(session, model, 3)
    assert consider(session, model, 5).reason == "active-run"
    assert model.consider_at == NOON + timedelta(seconds=65)
    end(session, first, RunState.PROMOTED, cut, after_s=6)
    assert consider(session, model, 6).fired


def test_the_days_maximum_puts_it_off_to_the_next_local_midnight(session):
    # Noon in UTC is 01:00 of the next day in Auckland (UTC+13 in March).
    model = make_model(session, max_runs_per_day=2, cooldown_s=0, timezone="Pacific/Auckland")
    for yesterday_or_today in (-7200, -1800, -900):
        factories.make_run(
            session,
            model,
            trigger_key=f"approved:{-yesterday_or_today}",
            state=RunState.FAILED,
            created_at=NOON + timedelta(seconds=yesterday_or_today),
        )
    factories.make_run(session, model, state=RunState.FAILED, created_at=NOON)  # asked for by a person
    approve(session, model, 3)
    check = consider(session, model)
    assert check.reason == "max-runs-per-day"
    assert model.consider_at == datetime(2026, 3, 11, 11, tzinfo=UTC)
    assert consider(session, model, 23 * 3600).fired


def test_under_hold_no_trigger_starts_a_run(session):
    model = make_model(session)
    model.hold = True
    approve(session, model, 3)
    check = consider(session, model)
    assert (check.reason, check.fired, model.consider_at) == ("hold", False, None)
    model.hold = False
    session.flush()
    assert consider(session, model).fired


def test_what_is_due_is_rung_for_again_until_it_is_considered(session):
    model = make_model(session)
    model.consider_at = NOON
    session.flush()
    assert emit_due(session, now=NOON + timedelta(seconds=1)) == [model.id]
    assert emit_due(session, now=NOON + timedelta(seconds=2)) == []
    assert emit_due(session, now=NOON + timedelta(seconds=61)) == [model.id]
    consider(session, model, 62)
    assert emit_due(session, now=NOON + timedelta(seconds=200)) == []
    assert list_events(session) == ["ConsiderationDue", "ConsiderationDue"]


def test_an_unknown_model_is_said_to_be_unknown(session):
    with pytest.raises(ModelNotFound):
        consider_model(session, 12345)


# --- a person asks ---------------------------------------------------------------------------------
def test_a_person_gets_a_run_whatever_was_approved_and_under_hold_too(session):
    model = make_model(session, max_runs_per_day=1)
    model.hold = True
    run = request_run(session, model=model, kind="head", caller=CLI, now=NOON)
    assert run.trigger_key.startswith("manual:")
    assert (run.state, run.requested_by) == (RunState.QUEUED, "cli")
    check = session.scalars(select(TriggerCheck)).one()
    assert (check.fired, check.run_id) == (True, run.id)
    assert check.counts["sentence"] == "cli asked for a head run."
    assert list_events(session) == ["RunRequested"]
    finish(session)
    assert session.scalars(select(AuditEntry)).one().action == "run.request"


def test_a_second_run_of_a_kind_is_refused(session):
    model = make_model(session)
    run = request_run(session, model=model, kind="head", caller=CLI)
    with pytest.raises(RunActive) as refused:
        request_run(session, model=model, kind="head", caller=CLI)
    assert refused.value.extra == {"run": str(run.id)}
    assert factories.count(session, Run) == 1


def test_a_full_run_may_go_beside_a_head_run_and_names_its_recipe(session):
    model = make_model(session)
    head = request_run(session, model=model, kind=RunKind.HEAD, caller=CLI)
    full = request_run(session, model=model, kind=RunKind.FULL, caller=CLI, recipe="quick")
    assert (head.recipe, full.recipe) == (None, {"name": "quick"})
    assert factories.count(session, Run) == 2
