"""Jobs that survive: attempts, polite stops, quarantine, and a database that is away for a moment."""

import signal
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from backtalk import runs, training, triggers
from backtalk.heartbeats import Heart, never
from backtalk.states import RunState
from backtalk.tables import Model, OutboxEvent, Run
from backtalk.trainers import Trainers
from tests.factories import make_decision
from tests.faults.lessons import (
    end_fitting,
    list_leftovers,
    reload,
    request_run,
    ring_again,
    teach,
)
from tests.faults.rig import Rig


@pytest.fixture
def trainers() -> Iterator[Trainers]:
    trainers = Trainers(warm=False)
    yield trainers
    trainers.close()


@pytest.fixture
def school(rig: Rig) -> Rig:
    rig.use("served", lease_s="90")
    teach(rig.system)
    return rig


@pytest.mark.fault(row=23, tries=3, only="a run that kills its trainer")
def test_a_run_that_kills_its_trainer_each_time_is_quarantined_with_the_reason(
    school: Rig, trainers: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, run = school.system, request_run(school.system)
    end_fitting(monkeypatch, signal.SIGKILL)
    for attempt in range(1, system.settings.max_attempts + 1):
        training.train_run(system, trainers, str(run.id))
        assert reload(system, run).attempt == attempt
        assert list_leftovers(system) == []
        if attempt < system.settings.max_attempts:
            assert reload(system, run).state == RunState.QUEUED
            ring_again(system, run)
    ended = reload(system, run)
    assert ended.state == RunState.FAILED
    assert ended.reason is not None
    assert ended.reason.startswith("Quarantined after 3 attempts: the trainer ended killed by SIGKILL")
    with system.db.reading() as session:
        assert "RunEnded" in set(session.scalars(select(OutboxEvent.event)))
    training.train_run(system, trainers, str(run.id))  # a late message
    assert reload(system, run).attempt == system.settings.max_attempts
    assert school.check() == {}


def test_no_trigger_repeats_a_quarantined_run_until_something_new_is_approved(school: Rig) -> None:
    with school.system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        model.policy = {"min_approved": 1, "debounce_s": 0, "cooldown_s": 0, "nightly": None}
        make_decision(session, model)
        check = triggers.consider_model(session, model.id)
        run = session.get_one(Run, check.run_id)
        run.attempt = 3
        runs.quarantine(session, run, "The trainer ended")
    with school.system.db.transaction() as session:
        again = triggers.consider_model(session, model.id)
        assert (again.fired, again.reason) == (False, "gave-up")
        make_decision(session, model)
        assert triggers.consider_model(session, model.id).fired


def test_sigterm_to_a_trainer_gives_the_run_back_and_charges_no_attempt(
    school: Rig, trainers: Trainers, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, run = school.system, request_run(school.system)
    end_fitting(monkeypatch, signal.SIGTERM)
    training.train_run(system, trainers, str(run.id))
    given_back = reload(system, run)
    assert (given_back.state, given_back.attempt, given_back.fence) == (RunState.QUEUED, 0, 1)
    assert list_leftovers(system) == []
    with system.db.reading() as session:  # rung for at once
        rung = session.scalars(select(OutboxEvent).where(OutboxEvent.event == "RunRequested")).all()
        assert [event.payload["run_id"] for event in rung] == [str(run.id)] * 2


def test_a_stopping_worker_gives_its_run_back_and_charges_no_attempt(school: Rig, trainers: Trainers) -> None:
    system, run = school.system, request_run(school.system)
    training.train_run(system, trainers, str(run.id), is_stopping=lambda: True)
    assert (reload(system, run).state, reload(system, run).attempt) == (RunState.QUEUED, 0)
    assert list_leftovers(system) == []


def test_a_run_that_is_stopped_politely_for_ever_is_charged_in_the_end(
    school: Rig, trainers: Trainers
) -> None:
    system, run = school.system, request_run(school.system)
    with system.db.transaction() as session:
        session.get_one(Run, run.id).fence = runs.FREE_CLAIMS
    for attempt in range(1, system.settings.max_attempts + 1):
        training.train_run(system, trainers, str(run.id), is_stopping=lambda: True)
        assert reload(system, run).attempt == attempt
    assert reload(system, run).state == RunState.FAILED


def test_beats_that_a_restart_of_the_database_swallowed_cost_no_run(school: Rig) -> None:
    system, run = school.system, request_run(school.system)
    with system.db.transaction() as session:
        claim = runs.claim_run(
            session, str(run.id), RunState.TRAINING, from_state=RunState.QUEUED, lease_s=60, max_attempts=3
        )
    assert claim is not None
    heart = Heart(system, claim, never)
    school.servers.postgres.shut_down()
    heart({"part": "fit", "fraction": 0.5})
    school.servers.postgres.start()
    heart({"part": "export", "fraction": 0.5})
    assert reload(system, run).progress["part"] == "export"
