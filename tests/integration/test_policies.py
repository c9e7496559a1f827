"""A policy is checked, written down with who changed it, and what it makes due is considered."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from backtalk.callers import CLI
from backtalk.db import finish
from backtalk.errors import InvalidPolicy
from backtalk.policy import Policy
from backtalk.tables import AuditEntry, OutboxEvent, TriggerCheck
from backtalk.triggers import announce_nightly, consider_model, emit_due, get_policy, set_policy
from tests import factories

MORNING = datetime(2026, 3, 10, 10, tzinfo=UTC)


@pytest.fixture
def session(database):
    with database.transaction() as session:
        yield session


@pytest.fixture
def model(session):
    return factories.make_model(session, policy={"nightly": None}, created_at=MORNING - timedelta(days=9))


def test_a_change_keeps_the_rest_and_only_differences_are_stored(session, model):
    set_policy(session, model, {"min_approved": 7, "margin": 0.03}, CLI)
    after = set_policy(session, model, {"margin": 0.02}, CLI)
    assert (after.min_approved, after.margin) == (7, 0.02)
    assert model.policy == {"nightly": None, "min_approved": 7}
    assert model.policy_version == 3
    assert get_policy(model) == after


def test_a_replacement_puts_the_rest_back_to_its_defaults_but_not_the_hold(session, model):
    set_policy(session, model, {"min_approved": 7, "hold": True}, CLI)
    after = set_policy(session, model, {"margin": 0.03}, CLI, replace=True)
    assert after == Policy(margin=0.03, hold=True)
    assert model.hold is True
    assert set_policy(session, model, {"hold": False}, CLI, replace=True) == Policy()


def test_who_changed_what_is_written_down(session, model):
    set_policy(session, model, {"min_approved": 7}, CLI)
    finish(session)
    entry = session.scalars(select(AuditEntry)).one()
    assert (entry.actor, entry.action, entry.subject) == ("cli", "policy.set", "model:animals")
    assert entry.detail["before"] == {"min_approved": 50}
    assert entry.detail["after"] == {"min_approved": 7}


def test_no_change_writes_nothing(session, model):
    set_policy(session, model, {"min_approved": 50, "nightly": None}, CLI)
    assert model.policy_version == 1
    finish(session)
    assert factories.count(session, AuditEntry) == 0
    assert model.consider_at is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_aproved": 5}, "min_aproved"),
        ({"min_approved": 0}, "min_approved"),
        ({"margin": 2}, "margin"),
        ({"timezone": "Mars"}, "unknown time zone"),
        ({"hold": None}, "hold"),
    ],
)
def test_a_bad_policy_is_refused_whole(session, model, changes, said):
    with pytest.raises(InvalidPolicy, match=said):
        set_policy(session, model, {"margin": 0.05} | changes, CLI)
    assert (model.policy, model.policy_version) == ({"nightly": None}, 1)


def test_nights_may_be_full(session, model):
    policy = set_policy(session, model, {"nightly_kind": "full", "nightly_recipe": "quick"}, CLI)
    assert (policy.nightly_kind, policy.nightly_recipe) == ("full", "quick")


def test_lifting_the_hold_asks_for_a_consideration(session, model):
    set_policy(session, model, {"hold": True}, CLI)
    assert (model.hold, model.consider_at) == (True, None)
    set_policy(session, model, {"hold": False}, CLI)
    assert (model.hold, model.policy) == (False, {"nightly": None})
    assert session.scalars(select(OutboxEvent.event)).all() == ["HoldLifted"]
    assert model.consider_at is not None  # and once more, should the message get lost


def test_a_lower_threshold_is_considered_at_once(session, model):
    for _ in range(5):
        factories.make_decision(session, model, created_at=MORNING - timedelta(hours=1))
    assert consider_model(session, model.id, now=MORNING).reason == "too-few"
    set_policy(session, model, {"min_approved": 5}, CLI, now=MORNING)
    assert emit_due(session, now=MORNING) == [model.id]
    assert consider_model(session, model.id, now=MORNING).fired


def test_what_the_gate_is_told_makes_no_run_due(session, model):
    set_policy(session, model, {"margin": 0.05, "review": "auto"}, CLI)
    assert model.consider_at is None


def test_a_night_that_was_past_when_nights_were_switched_on_is_not_caught_up_on(session, model):
    factories.make_decision(session, model, created_at=MORNING - timedelta(hours=1))
    set_policy(session, model, {"nightly": "02:00"}, CLI, now=MORNING)
    check = session.scalars(select(TriggerCheck)).one()
    assert (check.reason, check.fired) == ("policy-changed", False)
    assert announce_nightly(session, now=MORNING) == []
    assert consider_model(session, model.id, now=MORNING).reason == "too-few"
    assert consider_model(session, model.id, now=MORNING + timedelta(hours=16)).fired
