"""Jobs that survive: attempts, polite stops, quarantine, and a database that is away for a moment."""

import signal
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from backtalk import promotion, runs, training, triggers
from backtalk.heartbeats import Heart, never
from backtalk.states import RunState, Split
from backtalk.tables import GateCheck, Model, OutboxEvent, Run
from backtalk.trainers import Trainers
from tests.factories import make_decision, make_image, make_sample
from tests.faults.lessons import (
    add_candidate,
    armed,
    end_fitting,
    list_leftovers,
    reload,
    request_run,
    ring_again,
    teach,
)
from tests.faults.load import correct_one, count_unprepared
from tests.faults.rig import Rig
from tests.served import make_jpeg


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


@pytest.mark.parametrize("step", ["judging.after_claim", "promotion.after_claim"])
def test_whoever_judges_or_promotes_for_longer_than_the_lease_keeps_the_run(rig: Rig, step: str) -> None:
    """And hands it on without a lease: a beat that comes late must not hold it against the next owner."""
    system = rig.use("served", lease_s="1.2").system
    judging = step.startswith("judging")
    state = RunState.JUDGING if judging else RunState.PROMOTING
    act = promotion.judge_run if judging else promotion.promote_run
    run = add_candidate(system, 2, files_of=1, state=state)
    with armed(f"{step}=sleep:3", rig.hits):
        owner = threading.Thread(target=act, args=(system, str(run.id)))
        owner.start()
        rig.wait_for(lambda: step in rig.hit_names(), 20)
        while owner.is_alive():
            act(system, str(run.id))  # the same message once more: there is nothing to do
            assert reload(system, run).fence == 2
            owner.join(0.2)
    ended = reload(system, run)
    assert (ended.attempt, ended.fence, ended.lease_until) == (1, 2, None)
    assert ended.state != state
    assert rig.check() == {}


@pytest.mark.slow
@pytest.mark.fault(row=23, tries=3, only="a run that kills its judge")
def test_a_run_that_kills_its_judge_each_time_is_quarantined_and_the_queue_flows_on(rig: Rig) -> None:
    system = rig.use("served", lease_s="1.2", ring_again_s="1").system
    run = add_candidate(system, 2, files_of=1, state=RunState.JUDGING, heartbeat_at=None)
    rig.start_all("api", "relay", "beat")
    worker = rig.start("events", failpoints="judging.after_claim=kill")
    rig.wait_for(lambda: reload(system, run).ended_at, 90)
    ended = reload(system, run)
    assert (ended.state, ended.attempt) == (RunState.FAILED, system.settings.max_attempts)
    assert ended.reason is not None
    assert ended.reason.startswith("Quarantined after 3 attempts: whoever worked on it stopped while judging")
    assert rig.hit_names().count("judging.after_claim") == system.settings.max_attempts
    correct_one(rig.caller("predict", "feedback"), 1)
    rig.wait_for(lambda: count_unprepared(rig) == 0, 30)
    assert worker.alive
    assert rig.check() == {}


@pytest.mark.fault(row=23)
def test_an_image_that_no_longer_decodes_keeps_no_other_from_being_judged(school: Rig) -> None:
    """As after an update of a decoder that has become stricter: its file is what it was, and is refused."""
    system = school.system
    run = add_candidate(system, 2, files_of=1, state=RunState.JUDGING)
    with system.db.transaction() as session:
        model = session.scalars(select(Model)).one()
        for seed, data in enumerate((make_jpeg(1), make_jpeg(2), b"\xff\xd8\xff no picture")):
            digest = f"{seed:064x}"
            key = system.images.put(digest, data)
            image = make_image(session, pixels_sha256=digest, store_key=key)
            make_sample(session, model, image, label="cat", split=Split.HOLDOUT)
    promotion.judge_run(system, str(run.id))
    with system.db.reading() as session:
        check = session.scalars(select(GateCheck).where(GateCheck.check == "accuracy-champion")).one()
    assert check.n == 2
    assert reload(system, run).ended_at is not None
    assert school.check() == {}


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
